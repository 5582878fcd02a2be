"""Loading a block by name from synchronous code, with one type and an error that tells what to do."""

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from modelyard.errors import Refused

Kind = TypeVar("Kind", bound=Block)


def load_block(kind: type[Kind], name: str) -> Kind:
    """The saved block ``name`` of ``kind``. Not for coroutines: there ``kind.load`` would give another coroutine.

    Raises:
        Refused: there is no such block.
    """
    slug = kind.get_block_type_slug()
    try:
        block = kind.load(name)
    except ValueError as error:  # what Prefect makes of 404; a document that is there but invalid is a RuntimeError
        raise Refused(f"there is no block {slug}/{name}; create it in the Prefect UI under Blocks, or save it from Python") from error
    if not isinstance(block, kind):
        raise TypeError(f"block {slug}/{name} was loaded inside an event loop; load it from synchronous code")
    return block


def block_names(kind: type[Block]) -> list[str]:
    """The names of all saved blocks of ``kind``; none if the type is not registered."""
    slug = kind.get_block_type_slug()
    with get_client(sync_client=True) as client:
        try:
            client.read_block_type_by_slug(slug)
        except ObjectNotFound:
            return []
        documents = client.read_block_documents_by_type(slug, include_secrets=False)  # all of them: the server knows no pages here
        return sorted(str(document.name) for document in documents if document.name)
