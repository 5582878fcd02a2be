"""The programs of others that must agree with us: cosign, and model_signing. Built or installed once, into the user's cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from devcluster.commands import run
from devcluster.network import locked
from devcluster.paths import cache_root

SOURCES = Path(__file__).resolve().parent / "go"
COSIGN = "github.com/sigstore/cosign/v3/cmd/cosign"
MODEL_SIGNING = "model-signing==1.1.1"
_UNDECLARED = "pyopenssl"  # it imports that, and does not ask for it


@cache
def program(package: str) -> Path:
    """A program of the Go module beside this file: ``./verify`` of its own, or ``COSIGN``, which takes minutes to build."""
    digest = hashlib.sha256(run(["go", "env", "GOVERSION", "GOOS", "GOARCH"]).encode() + package.encode())
    for file in sorted(SOURCES.rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else b"")
    target = cache_root() / "signing" / digest.hexdigest()[:12] / package.rpartition("/")[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / ".lock"):
        if not target.exists():
            partial = target.with_suffix(".partial")
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
            command: list[str | Path] = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", partial, package]
            run(command, cwd=SOURCES, env=environment)
            partial.rename(target)
    return target


@cache
def model_signing() -> Path:
    """The `model_signing` command, in an environment of its own: it brings twenty packages."""
    home = cache_root() / "signing" / MODEL_SIGNING
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.with_suffix(".lock")):
        if not (home / ".done").exists():
            run([sys.executable, "-m", "uv", "venv", "--clear", "--python", sys.executable, home])
            run([sys.executable, "-m", "uv", "pip", "install", "--python", home / "bin/python", MODEL_SIGNING, _UNDECLARED])
            (home / ".done").touch()
    return home / "bin/model_signing"


def cosign(image: str, public_key: str, *, old: bool = False) -> int | str:
    """How many statements (or signatures of the old form) cosign finds good, or what it says against the image."""
    with _file(public_key) as key:
        done = _run([program("./verify"), "-key", key, *(["-old"] if old else []), image])
    return int(done.stdout) if done.returncode == 0 else done.stderr


def check_model(directory: Path, bundle: bytes, public_key: str) -> str:
    """What `model_signing verify` says against a directory and a bundle: nothing if they agree."""
    with _file(public_key) as key, _file(bundle.decode()) as signature:
        done = _run([model_signing(), "verify", "key", directory, "--signature", signature, "--public_key", key])
    return "" if done.returncode == 0 else done.stdout + done.stderr


def sign_model(directory: Path, private_key: str) -> bytes:
    """The bundle that `model_signing sign` makes of a directory."""
    with _file(private_key) as key, _file("") as signature:
        done = _run([model_signing(), "sign", "key", directory, "--signature", signature, "--private_key", key])
        assert done.returncode == 0, done.stderr
        return Path(signature).read_bytes()


def new_key_pair(directory: Path, password: str) -> tuple[str, str]:
    """A private and a public key as `cosign generate-key-pair` writes them."""
    done = _run([program("./keys"), directory], COSIGN_PASSWORD=password)
    assert done.returncode == 0, done.stderr
    return (directory / "cosign.key").read_text(), (directory / "cosign.pub").read_text()


def _run(command: list[str | Path], **environment: str) -> "subprocess.CompletedProcess[str]":
    offline = {"SIGSTORE_NO_CACHE": "true", "TUF_ROOT": "/nonexistent"}  # nothing is asked of any service
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env={**os.environ, **offline, **environment})


class _file(tempfile.TemporaryDirectory[str]):  # noqa: N801 - used as a function
    """A file with a text, while the block lasts; its path."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __enter__(self) -> str:
        path = Path(self.name) / "file"
        path.write_text(self._text, encoding="utf-8")
        return str(path)
