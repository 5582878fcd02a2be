"""A model's image as its registry holds it, for the procedures that serve or pull it."""

from prefect import task

from flows.retries import retried
from modelyard.errors import RegistryUnavailable
from modelyard.images.references import Reference
from modelyard.oci.access import Keychain
from modelyard.plans.model_image import ImageFacts, reference_problems
from modelyard.serving.image import read_image


@task(task_run_name="image-{image}", **retried(RegistryUnavailable))
def find_image(image: Reference, keychain: Keychain) -> ImageFacts | None:
    """What the registry holds; a reference that is refused anyway is not looked up."""
    return None if reference_problems(image) else read_image(image, keychain)
