"""The interpreter that the loader runs by: an environment of ``requirements/loader.txt``, as its container's image has it.

In the developer's environment boto3 would find pyOpenSSL, which Prefect brings, and take twice as long to start.
"""

import hashlib
import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENTS = ROOT / "requirements" / "loader.txt"


def loader_python(work: Path) -> Path:
    """The interpreter, in an environment below ``work`` that is made once for these requirements."""
    directory = work / f"loader-{hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    python = directory / "bin" / "python"
    made = directory / ".made"
    if not made.exists():
        print(f"making the loader's environment in {directory} once", flush=True)
        venv.create(directory, clear=True, with_pip=True)
        install = ["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
        subprocess.run([python, "-m", "pip", *install, "--requirement", _REQUIREMENTS], check=True)
        made.touch()
    return python


def environment() -> dict[str, str]:
    """The caller's environment with this repository's modules on the path, and none of its own settings for S3 tools."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "MODELYARD_"))}
    return {**own, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}


def packages(python: Path) -> dict[str, str]:
    """The versions of what the loader and boto3 are made of."""
    names = ("awscrt", "boto3", "s3transfer", "pydantic")
    program = "import ssl, sys; from importlib.metadata import version; print(sys.version.split()[0]); print(ssl.OPENSSL_VERSION)"
    program += f"; print(*map(version, {names!r}), sep='\\n')"
    told = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(zip(("python", "openssl", *names), told, strict=True))
