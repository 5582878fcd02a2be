"""From the ``modelsCacheStorage`` of a Helm values file to a ``ModelCache`` block, so that nobody types settings twice.

    python -m blocks.helm_values my-values.yaml --save models --loader-image registry/modelyard-loader:0.1.0

Without ``--save`` the settings are printed and nothing is stored. All problems are told at once, each with its key.
"""

import argparse
import difflib
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from blocks.model_cache import ModelCache
from modelyard.errors import Problem, Refused

SECTION = "modelsCacheStorage"
#: The documentation of MLIS spells it so in one place, where it tells how to disable caching.
MISSPELT = "modelCacheStorage"
OPTIONS = (
    "enabled",
    "storageSize",
    "storageClassName",
    "pvcNameSuffix",
    "bypassStorageCheck",
    "checkUnusedCachedModelsEvery",
    "purgeUnusedCachedModelsAfter",
)


def model_cache_from_values(source: Path | str, **overrides: Any) -> ModelCache:
    """The block that a values file (a ``Path``) or its text (a ``str``) describes; ``overrides`` are fields of the block and win.

    Raises:
        Refused: what is below ``modelsCacheStorage`` makes no cache; every problem is listed.
    """
    values = _parsed(source.read_text(encoding="utf-8") if isinstance(source, Path) else source)
    settings, problems = _section(values)
    wanted = {key: value for key, value in settings.items() if key in OPTIONS and value is not None}  # null unsets, as in Helm
    wanted |= {to_camel(name): value for name, value in overrides.items()}
    problems += [_unknown(name, tuple(ModelCache.model_fields)) for name in overrides if not _is_field(name)]
    try:
        block = ModelCache(**wanted)
    except ValidationError as error:
        raise Refused([*problems, *_invalid(error)]) from error
    if problems:
        raise Refused(problems)
    return block


def _parsed(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused([Problem("values", f"not valid YAML: {error}", "check the file with `helm template -f`")]) from error
    if not isinstance(values, dict):
        raise Refused([Problem("values", "not a mapping of keys to values", "pass the values file of the Helm release")])
    return values


def _section(values: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings below the section, ``enabled`` of the misspelt one included, and what is wrong with them."""
    settings, misspelt = values.get(SECTION), values.get(MISSPELT)
    problems = [
        Problem(name, f"holds {found!r}, not a mapping", f"write its options below {name}:")
        for name, found in ((SECTION, settings), (MISSPELT, misspelt))
        if found is not None and not isinstance(found, dict)
    ]
    if settings is None and misspelt is None:
        problems.append(Problem(SECTION, "missing in the values", f"add {SECTION}: with at least storageSize"))
    settings = dict(settings) if isinstance(settings, dict) else {}
    problems += [_unknown(f"{SECTION}.{key}", OPTIONS) for key in settings if key not in OPTIONS]
    if isinstance(misspelt, dict):
        problems += _adopt_misspelt(misspelt, settings)
    return settings, problems


def _adopt_misspelt(misspelt: dict[str, Any], settings: dict[str, Any]) -> list[Problem]:
    """Put ``modelCacheStorage.enabled`` into ``settings``, with a warning; anything else down there is a problem."""
    problems = [
        Problem(f"{MISSPELT}.{key}", f"{MISSPELT} is misspelt", f"write it as {SECTION}.{key}") for key in misspelt if key != "enabled"
    ]
    if (wanted := misspelt.get("enabled")) is None:
        return problems
    if settings.get("enabled", wanted) != wanted:
        both = f"it says {wanted!r}, {SECTION}.enabled says {settings['enabled']!r}"
        return [*problems, Problem(f"{MISSPELT}.enabled", both, f"keep {SECTION}.enabled alone")]
    warnings.warn(f"{MISSPELT}.enabled is misspelt; it is read as {SECTION}.enabled, which is how to write it", stacklevel=4)
    settings["enabled"] = wanted
    return problems


def _unknown(key: str, known: tuple[str, ...]) -> Problem:
    closest = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.5)
    return Problem(key, "unknown option", f"did you mean {closest[0]}?" if closest else f"known are {', '.join(known)}")


def _is_field(name: str) -> bool:
    return name in ModelCache.model_fields or any(field.alias == name for field in ModelCache.model_fields.values())


def _invalid(error: ValidationError) -> list[Problem]:
    """The findings of pydantic as problems; a validator's message names value, limit and next step by itself."""
    problems = []
    for found in error.errors(include_url=False):
        subject = ".".join(str(part) for part in found["loc"]) or SECTION
        what, _, next_step = found["msg"].removeprefix("Value error, ").partition("; ")
        problems.append(Problem(subject, what, next_step or f"correct {subject}"))
    return problems


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m blocks.helm_values", description="Make a ModelCache block from Helm values.")
    parser.add_argument("file", type=Path, help="values file of the Helm release")
    parser.add_argument("--save", metavar="NAME", help="store the block under this name (default: print its settings)")
    parser.add_argument("--overwrite", action="store_true", help="replace a stored block of that name")
    for name in ("loader_image", "namespace", "base_name"):
        field = ModelCache.model_fields[name]
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit code: 0, or 1 if the values make no cache."""
    arguments = _arguments(argv)
    given = {name: getattr(arguments, name) for name in ("loader_image", "namespace", "base_name")}
    try:
        block = model_cache_from_values(arguments.file, **{name: value for name, value in given.items() if value})
        if arguments.save:
            block.save(arguments.save, overwrite=arguments.overwrite)
    except (Refused, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    saved = f"saved as modelyard-model-cache/{arguments.save}" if arguments.save else block.model_dump_json(by_alias=True, indent=2)
    sys.stdout.write(f"{saved}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
