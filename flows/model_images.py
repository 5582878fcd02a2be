"""A model's image as its registry holds it, for the procedures that serve or pull it."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from modelyard.images.references import Reference
from modelyard.oci.access import Keychain
from modelyard.plans.model_image import ImageFacts, reference_problems
from modelyard.serving.image import read_image


@task(task_run_name="image-{image}", cache_policy=NO_CACHE)
def find_image(image: Reference, keychain: Keychain) -> ImageFacts | None:
    """What the registry holds; a reference that is refused anyway is not looked up. What failed for a passing reason was tried again."""
    return None if reference_problems(image) else read_image(image, keychain)
