"""What several flows' forms ask for."""

from typing import Annotated

from pydantic import Field

#: The name of a block, a model or a version, or a quantity; what it names is checked by the plan.
ShortText = Annotated[str, Field(min_length=1, max_length=100)]
