"""The loader's command line: ``python -m modelyard.loader <command> --spec JSON``, a command an order.

Exit code 0: done. 1: an error that no other try cures (the Job's podFailurePolicy ends the Job). 75: another try may help.
The result, or the error as data, goes to the pod's termination message; progress and the same end go to the log.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from modelyard.errors import LoaderFailed, LoaderInterrupted, ModelyardError
from modelyard.loader.build import build
from modelyard.loader.check import check
from modelyard.loader.inspect import inspect
from modelyard.loader.preload import preload
from modelyard.loader.progress import say
from modelyard.loader.remove import remove
from modelyard.loader.sources import open_source
from modelyard.loader.tuning import Tuning
from modelyard.loader.verify import verify
from modelyard.modelcar.order import BuildSpec
from modelyard.models import Value
from modelyard.orders import InspectSpec, LoadSpec, RemoveSpec, VerifySpec
from modelyard.storage_orders import CheckSpec

EXIT_PERMANENT = 1
EXIT_TEMPORARY = os.EX_TEMPFAIL


class _Retries(logging.Handler):
    """What the library warns of is what is tried again: as a line that whoever follows the Job tells."""

    def emit(self, record: logging.LogRecord) -> None:
        say("retry", message=record.getMessage())


def main(argv: list[str] | None = None) -> int:
    """Carry out one order and report its end."""
    arguments = _parse(argv)
    if not (logger := logging.getLogger("modelyard")).handlers:
        logger.addHandler(_Retries(logging.WARNING))
    os.umask(0o002)  # a cache is shared by its group
    signal.signal(signal.SIGTERM, _interrupted)  # process 1 of a container has no default action for it
    try:
        result = _COMMANDS[arguments.command](arguments.spec, arguments.root)
        _ignore_sigterm()
    except ModelyardError as error:
        _report("error", error.to_data(), arguments.termination_log)
        return EXIT_TEMPORARY if error.retryable else EXIT_PERMANENT
    except Exception as error:
        _report("error", LoaderFailed(f"{type(error).__name__}: {error}").to_data(), arguments.termination_log)
        raise
    _report("result", result.model_dump(), arguments.termination_log)
    return 0


def _preload(text: str, root: Path) -> Value:
    spec = LoadSpec.model_validate_json(text)
    return preload(spec, root, open_source(spec.source, spec.pin), Tuning.from_environment(os.environ))


def _inspect(text: str, root: Path) -> Value:
    return inspect(InspectSpec.model_validate_json(text), root)


def _remove(text: str, root: Path) -> Value:
    return remove(RemoveSpec.model_validate_json(text), root)


def _verify(text: str, root: Path) -> Value:
    return verify(VerifySpec.model_validate_json(text), root, open_source, Tuning.from_environment(os.environ))


def _check(text: str, root: Path) -> Value:
    return check(CheckSpec.model_validate_json(text), root)


def _build(text: str, root: Path) -> Value:
    return build(BuildSpec.model_validate_json(text), root)


#: Each reads its order from JSON and works on the volume below the given directory.
_COMMANDS: dict[str, Callable[[str, Path], Value]] = {
    LoadSpec.command: _preload,
    InspectSpec.command: _inspect,
    RemoveSpec.command: _remove,
    VerifySpec.command: _verify,
    CheckSpec.command: _check,
    BuildSpec.command: _build,
}


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    _ignore_sigterm()  # once is enough
    raise LoaderInterrupted("the loader was told to stop (SIGTERM: an eviction, a drained node, a deleted Job); the next run goes on")


def _ignore_sigterm() -> None:
    """From here on only the report is left, which must not become another one: a published version is no failure."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="modelyard.loader", description="Carries out an order on the volume beside it.")
    parser.add_argument("command", choices=sorted(_COMMANDS), help="the kind of order")
    parser.add_argument("--spec", required=True, help="the order as JSON")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("MODELYARD_ROOT", "/models")), help="where the volume is mounted")
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"), help="where the result is written")
    return parser.parse_args(argv)


def _report(event: str, end: dict[str, Any], termination_log: Path) -> None:
    _ignore_sigterm()
    say(event, **end)
    if termination_log.exists():  # outside a pod the log line is all
        termination_log.write_text(json.dumps({"event": event, **end}))


if __name__ == "__main__":
    sys.exit(main())
