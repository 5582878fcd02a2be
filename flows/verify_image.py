"""Verify an image: signed by a trusted key, with the files that were signed."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from blocks import OciRegistry, load_block
from flows.keychains import keychain_of_block
from flows.parameters import ImageText, ShortText, parse_image
from flows.signing import check_signature
from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference
from modelyard.names import artifact_key
from modelyard.quantities import format_bytes
from modelyard.signing.keys import PublicKey, read_public_keys
from modelyard.signing.verify import Verified

Pem = Annotated[str, Field(max_length=20_000)]


@flow(name="verify-image", flow_run_name="verify-{image}")
def verify_image(
    image: ImageText,
    registry: ShortText = "default",
    public_key: Pem = "",
    read_layers: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> Verified:
    """See that a trusted key signed an image and the list of its files, and that the image has these files and no others.

    Asks the registry and nobody else: no log, no certificate authority.

    Args:
        image: Image with a tag or a digest, for example registry.example/models/llama:v1.
        registry: Name of the Modelyard OCI Registry block that the image lies in; its trusted keys count if none is given here.
        public_key: PEM text of the key (cosign.pub), or of several of which one must have signed; empty: those of the registry's block.
        read_layers: Read every byte of the layers too, and compare each file with what was signed: for a registry's storage that is
            in doubt. Otherwise the digests that the image's manifests record are compared, which takes no longer than a second.

    Raises:
        Refused: the image is not signed so, or is not what was signed; all that is wrong is listed.
        RegistryMissing: there is no such image.
    """
    target = load_block(OciRegistry, registry)
    verified = check_signature(parse_image(image), keychain_of_block(target), _keys(public_key, target), read_layers=read_layers)
    repository = Reference.parse(verified.image)
    key = artifact_key("verified", repository.repository, repository.host)
    create_markdown_artifact(describe(verified), key=key, description=f"Signed by {verified.key[:12]}")
    return verified


def describe(verified: Verified) -> str:
    """What was found, as Markdown."""
    read = "every byte was read" if verified.read else "by the digests that its manifests record"
    origin = "signed as well" if verified.provenance else "none that a trusted key signed"
    return (
        f"# {verified.image}\n\n| | |\n|---|---|\n| Signed by | `{verified.key}` |\n"
        f"| Files | {verified.files}, {format_bytes(verified.bytes)}: all that were signed and no others, {read} |\n"
        f"| Provenance | {origin} |\n"
    )


def _keys(text: str, registry: OciRegistry) -> tuple[PublicKey, ...]:
    try:
        keys = read_public_keys(text) if text.strip() else registry.public_keys()
    except ValueError as error:
        raise Refused([Problem("public_key", str(error), "correct it")]) from error
    if not keys:
        raise Refused([Problem("public_key", "is empty, and the registry's block has no trusted keys", "give one of them")])
    return keys
