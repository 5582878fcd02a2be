"""What several flows' forms ask for, and how its texts are read."""

from typing import Annotated

from pydantic import Field

from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference

#: The name of a block, a model or a version, or a quantity; what it names is checked by the plan.
ShortText = Annotated[str, Field(min_length=1, max_length=100)]
ImageText = Annotated[str, Field(min_length=1, max_length=500)]
KubeName = Annotated[str, Field(min_length=1, max_length=253)]
Labels = Annotated[dict[str, str], Field(max_length=50)]

#: Static, for amd64 and arm64, with the shell, ln, sleep and ls that serving runtimes call in a modelcar.
BUSYBOX = "docker.io/library/busybox:1.37.0-musl"


def parse_image(text: str, field: str = "image") -> Reference:
    """The reference that a form's ``field`` writes.

    Raises:
        Refused: it cannot be read.
    """
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise Refused([Problem(field, str(error), "correct it")]) from error
