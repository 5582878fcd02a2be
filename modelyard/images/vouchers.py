"""A signature inside the manifest that it is about: for records that are written many times, and gone in the end."""

from modelyard.images.descriptors import canonical, parsed

_VOUCHER = "dev.modelyard.signature"


def with_voucher(content: bytes, voucher: str) -> bytes:
    """A manifest with a signature over it."""
    document = parsed(content)
    document["annotations"] = {**(document.get("annotations") or {}), _VOUCHER: voucher}
    return canonical(document)


def without_voucher(content: bytes) -> tuple[bytes, str]:
    """What the signature was made over, and the signature; empty if there is none."""
    document = parsed(content)
    annotations = dict(document.get("annotations") or {})
    voucher = annotations.pop(_VOUCHER, "")
    return canonical({**document, "annotations": annotations}), str(voucher)
