"""The root keys of the S3 server: made once per cluster, kept in the format of AWS's shared credentials file."""

from __future__ import annotations

import secrets
from configparser import ConfigParser
from pathlib import Path

from devcluster.paths import write_atomically


def make_s3_keys(path: Path) -> None:
    """Random keys, once; readable by root only."""
    if not path.exists():
        access, secret = f"DEV{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        write_atomically(path, f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n", mode=0o600)


def read_s3_keys(path: Path) -> tuple[str, str]:
    """Access key and secret key."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(path.read_text())
    return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]
