"""A kubeconfig as text: which context it means, and why it cannot stand alone in a block.

Nothing here prints the text: a YAML parser's own message quotes the line it stumbles over, and that line may be a token.
"""

import shutil
from typing import Any

import yaml

#: Keys that name a file beside the kubeconfig; the block holds the text alone. (Their ``-data`` twins, and ``token``, are fine.)
_FILE_KEYS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


def parse_kubeconfig(text: str) -> dict[str, Any]:
    """The kubeconfig as data.

    Raises:
        ValueError: not YAML, or not a kubeconfig.
    """
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ValueError(f"is not valid YAML{where}; paste the output of `kubectl config view --raw --flatten --minify`") from None
    if not isinstance(parsed, dict) or not _named(parsed, "contexts"):
        raise ValueError("names no context; paste the output of `kubectl config view --raw --flatten --minify`")
    return parsed


def chosen_context(kubeconfig: dict[str, Any], named: str | None) -> str:
    """The context to use: the named one, else the only one. ``current-context`` decides nothing: it changes by accident.

    Raises:
        ValueError: several and none is named, or the named one is not there.
    """
    contexts = sorted(_named(kubeconfig, "contexts"))
    if named:
        if named not in contexts:
            raise ValueError(f"context {named!r} is not in the kubeconfig; it holds {', '.join(contexts)}")
        return named
    if len(contexts) > 1:
        raise ValueError(f"the kubeconfig holds {len(contexts)} contexts and none is named; set context to one of {', '.join(contexts)}")
    return contexts[0]


def context_problem(kubeconfig: dict[str, Any], context: str) -> str | None:
    """Why ``context`` cannot be used from the text alone, or None."""
    chosen = _named(kubeconfig, "contexts")[context]
    for section, kind in (("clusters", "cluster"), ("users", "user")):
        name = chosen.get(kind)
        entries = _named(kubeconfig, section)
        if name not in entries:
            held = ", ".join(sorted(entries)) or "none"
            return f"context {context!r} names {kind} {name!r}, which is not in the kubeconfig; it holds {held}"
        if files := [key for key in _FILE_KEYS if key in entries[name]]:
            return (
                f"{kind} {name!r} refers to files ({', '.join(files)}), which are not here when a flow runs;"
                " paste the output of `kubectl config view --raw --flatten --minify`"
            )
    return None


def exec_command(kubeconfig: dict[str, Any], context: str) -> str | None:
    """The program that the context's user runs for credentials (``aws eks get-token``), or None."""
    user = _named(kubeconfig, "users")[_named(kubeconfig, "contexts")[context]["user"]]
    return str(user["exec"].get("command")) if "exec" in user else None


def missing_program(command: str) -> bool:
    """Whether ``command`` is a program that this machine or image lacks."""
    return shutil.which(command) is None


def _named(kubeconfig: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    """A section's entries by name; clusters, contexts and users are lists of ``{name, <kind>: {...}}``."""
    kind = section.removesuffix("s")
    entries = kubeconfig.get(section) or []
    return {str(entry["name"]): entry.get(kind) or {} for entry in entries if isinstance(entry, dict) and "name" in entry}
