"""Loading what a flow is set up with: its blocks, by the names that its parameters give."""

from typing import TypeVar

from prefect.blocks.core import Block

from modelyard.errors import Problem, Refused

B = TypeVar("B", bound=Block)


def load_block(kind: type[B], name: str) -> B:
    """The saved block of this kind and name.

    Raises:
        Refused: there is none, or what was saved is no longer valid; the message says where to mend it.
    """
    where = f"see Blocks in the UI, type {kind.get_block_type_slug()}"
    try:
        block = kind.load(name, _sync=True)  # type: ignore[call-arg]  # Prefect's async_dispatch adds _sync
    except (ValueError, RuntimeError) as error:
        raise Refused([Problem(f"block {name!r}", str(error).splitlines()[0], f"create it or name another; {where}")]) from error
    if not isinstance(block, kind):
        raise Refused([Problem(f"block {name!r}", f"is a {type(block).__name__}, not a {kind.__name__}", where)])
    return block
