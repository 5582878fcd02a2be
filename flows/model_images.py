"""A model's image as forms name it and its registry holds it, for the procedures that serve or pull it."""

from typing import Annotated

from prefect import task
from pydantic import Field

from flows.retries import retried
from modelyard.errors import Problem, Refused, RegistryUnavailable
from modelyard.images.references import Reference
from modelyard.oci.access import Keychain
from modelyard.plans.model_image import ImageFacts, reference_problems
from modelyard.serving.image import read_image

ImageText = Annotated[str, Field(min_length=1, max_length=500)]
KubeName = Annotated[str, Field(min_length=1, max_length=253)]
Labels = Annotated[dict[str, str], Field(max_length=50)]


@task(task_run_name="image-{image}", **retried(RegistryUnavailable))
def find_image(image: Reference, keychain: Keychain) -> ImageFacts | None:
    """What the registry holds; a reference that is refused anyway is not looked up."""
    return None if reference_problems(image) else read_image(image, keychain)


def parse_image(text: str) -> Reference:
    """The reference that the form's text writes.

    Raises:
        Refused: it cannot be read.
    """
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise Refused([Problem("image", str(error), "correct it")]) from error
