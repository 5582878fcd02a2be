"""The command line; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from devcluster import Cluster, connect, down, up
from devcluster.errors import DevclusterError
from devcluster.health import check
from devcluster.images import build_image, load_image
from devcluster.lifecycle import EXTRAS, build
from devcluster.network import Block, read_slot
from devcluster.paths import DEFAULT_NAME, layout
from devcluster.processes import read_status


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options) or 0)
    except DevclusterError as error:
        print(f"devcluster: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("devcluster: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devcluster", description="A real one-node Kubernetes without Docker.")
    parser.add_argument("--name", default=os.environ.get("DEVCLUSTER_NAME", DEFAULT_NAME),
                        help="which cluster (default: $DEVCLUSTER_NAME or %(default)s)")  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("up", help="start the cluster; build its programs the first time")
    _add_extras(command, "install this into it too (may be repeated)")
    command.set_defaults(run=_up)
    command = commands.add_parser("build", help="build the programs, and start nothing")
    command.set_defaults(run=lambda options: build(extras=options.extras))
    _add_extras(command, "build this too (may be repeated)")
    command = commands.add_parser("down", help="stop the cluster; its data stays")
    command.add_argument("--purge", action="store_true", help="remove its data too")
    command.set_defaults(run=lambda options: down(options.name, purge=options.purge))
    command = commands.add_parser("status", help="what runs; exit status 1 when the cluster is not ready")
    command.set_defaults(run=_status)
    command = commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    command.set_defaults(run=lambda options: print(connect(options.name).kubeconfig))
    command = commands.add_parser("env", help="print how to reach everything, as shell exports")
    command.add_argument("--json", action="store_true", help="as one JSON object")
    command.set_defaults(run=_env)
    command = commands.add_parser("load", help="push an image of the local build storage into the cluster's registry")
    command.add_argument("image", metavar="NAME:TAG")
    command.set_defaults(run=lambda options: print(*load_image(connect(options.name).registry, options.image)))
    _add_build_image(commands.add_parser("build-image", help="build an image and push it; print its reference and digest"))
    return parser


def _add_extras(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--with", dest="extras", action="append", choices=sorted(EXTRAS), default=[], help=text)


def _add_build_image(command: argparse.ArgumentParser) -> None:
    command.add_argument("label", nargs="?", default="image", help="what to call it in messages")
    command.add_argument("--context", required=True, type=Path)
    command.add_argument("--file", type=Path, help="the Dockerfile (default: CONTEXT/Dockerfile)")
    command.add_argument("--tag", required=True, metavar="NAME:TAG")
    command.set_defaults(run=_build_image)


def _up(options: argparse.Namespace) -> None:
    _print_summary(up(options.name, extras=options.extras))


def _print_summary(cluster: Cluster) -> None:
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _status(options: argparse.Namespace) -> int:
    cluster = connect(options.name)
    here = layout(options.name)
    for component, state in read_status(here).items():
        print(f"{component:24} {'ready' if state['ready'] else 'not ready':10} restarts {state['restarts']}")
    for name, value in cluster.environment().items():
        print(f"{name:24} {value}")
    slot = read_slot(here)
    waiting = None if slot is None else check(here, Block(slot))
    if waiting:
        print(f"not ready: {waiting.component} {waiting.reason}; see {here.log(waiting.component)}")
    return 1 if waiting else 0


def _env(options: argparse.Namespace) -> None:
    environment = connect(options.name).environment()
    if options.json:
        print(json.dumps(environment, indent=1))
    else:
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items()))


def _build_image(options: argparse.Namespace) -> None:
    cluster = connect(options.name)
    print(*build_image(cluster.registry, options.label, options.context, options.file, options.tag))


if __name__ == "__main__":
    sys.exit(main())
