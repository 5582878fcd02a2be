"""What an entry of an image's layer means for a model: a file of it, something that lies elsewhere, or what is not to be trusted.

Names are hostile: whoever made the image chose them. https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

import re
import tarfile
from collections.abc import Mapping

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
#: PATH_MAX: no file system takes more, and looking for links above a longer name would take long.
_LONGEST_NAME = 4096
#: However often it is said that a name begins here, it does.
_HERE = re.compile(r"(?:\./+)+")
#: What a global header may not say: runtimes pass it over, tarfile applies it to every entry behind it.
_NOT_FOR_ALL = ("path", "linkpath", "size", "hdrcharset", "GNU.sparse.")


def model_path(entry: tarfile.TarInfo) -> str | None:
    """The path of a model's file that the entry holds; None for a directory, and for all that lies outside of ``models/``."""
    name = _name(entry)
    return name.removeprefix(ROOT) if name.startswith(ROOT) and entry.type in _FILES else None


def entry_problem(entry: tarfile.TarInfo) -> str | None:
    """Why an image with this entry is not loaded, or None. Links and devices outside of ``models/`` are a base's; nobody follows them."""
    if len(entry.name) > _LONGEST_NAME:
        return f"is a name of {len(entry.name)} characters"
    name = _name(entry)
    parts = name.split("/")
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leads upwards ('..')"
    if _hides(parts):
        return "is a whiteout: it deletes files of lower layers"
    return _inside_problem(entry, parts) if parts[0] == _ROOT_NAME else None


class Links:
    """The symbolic links that an image's layers have made, up to the entry that is looked at.

    A runtime that unpacks a layer follows them: with ``x`` a link to ``models``, ``x/weights`` is a file of the model.
    """

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        self._names = set(names)

    def __len__(self) -> int:
        return len(self._names)

    def copy(self) -> "Links":
        """Others, to begin with."""
        return Links(frozenset(self._names))

    def problem(self, entry: tarfile.TarInfo) -> str | None:
        """Why an image with this entry is not loaded, or None; remembers a link, and that a directory took a link's place."""
        parts = [part for part in entry.name.split("/") if part not in {"", "."}]
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in self._names:
                return "lies below a symbolic link, which leads elsewhere"
        if entry.type == tarfile.SYMTYPE:
            self._names.add("/".join(parts))
        elif entry.type == tarfile.DIRTYPE:
            self._names.discard("/".join(parts))
        return None


def global_problem(headers: Mapping[str, str]) -> str | None:
    """Why an archive with these global headers (``TarFile.pax_headers``) is not read, or None."""
    told = sorted(name for name in headers if name.startswith(_NOT_FOR_ALL))
    return f"has a header for all entries behind it ({', '.join(told)}), which not every reader applies" if told else None


def _name(entry: tarfile.TarInfo) -> str:
    found = _HERE.match(entry.name)
    return entry.name[found.end() if found else 0 :].rstrip("/") or entry.name[:1]


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
