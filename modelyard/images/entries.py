"""What an entry of an image's layer means for a model: a file of it, something that lies elsewhere, or what is not to be trusted.

Names are hostile: whoever made the image chose them. https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

import tarfile

from modelyard.images.tar import ROOT
from modelyard.names import path_problem

_WHITEOUT = ".wh."
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_KINDS = {
    tarfile.LNKTYPE: "is a hard link",
    tarfile.SYMTYPE: "is a symbolic link",
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a pipe",
    tarfile.GNUTYPE_SPARSE: "is a sparse file, which layers may not hold",
}
_ROOT_NAME = ROOT.rstrip("/")


def model_path(entry: tarfile.TarInfo) -> str | None:
    """The path of a model's file that the entry holds; None for a directory, and for all that lies outside of ``models/``."""
    name = entry.name.removeprefix("./")
    return name.removeprefix(ROOT) if name.startswith(ROOT) and entry.type in _FILES else None


def entry_problem(entry: tarfile.TarInfo) -> str | None:
    """Why an image with this entry is not loaded, or None. Links and devices outside of ``models/`` are a base's; nobody follows them."""
    name = entry.name.removeprefix("./").rstrip("/")
    parts = name.split("/")
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leads upwards ('..')"
    if _hides(parts):
        return "is a whiteout: it deletes files of lower layers"
    return _inside_problem(entry, parts) if parts[0] == _ROOT_NAME else None


def _hides(parts: list[str]) -> bool:
    """Whether the entry takes files of lower layers away from the model."""
    hidden = any(part.startswith(_WHITEOUT) for part in parts)
    return hidden and parts[0] in {_ROOT_NAME, f"{_WHITEOUT}{_ROOT_NAME}", f"{_WHITEOUT}{_WHITEOUT}.opq"}


def _inside_problem(entry: tarfile.TarInfo, parts: list[str]) -> str | None:
    if entry.type == tarfile.DIRTYPE:
        return None
    if entry.type not in _FILES or entry.issparse():
        return _KINDS.get(entry.type, "is no file")
    return path_problem("/".join(parts[1:])) if parts[1:] else "is a file, not a directory"
