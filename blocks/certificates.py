"""Certificate authorities as text: what a block stores, checked when it is entered and handed to clients that want a file."""

import atexit
import os
import ssl
import tempfile
from functools import cache
from pathlib import Path


def checked_authority(pem: str | None) -> str | None:
    """``pem`` itself if it holds at least one certificate; empty text is None, as a form sends it.

    Raises:
        ValueError: no certificate in it.
    """
    if not pem or not pem.strip():
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            "holds no certificate in PEM form; paste the text from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
        ) from error
    return pem


@cache
def authority_file(pem: str) -> str:
    """The path of a file with ``pem``, for this process alone (mode 0600) and removed when it ends.

    One file for each authority: botocore opens it at every new connection, so it has to outlive the client.
    """
    descriptor, name = tempfile.mkstemp(prefix="modelyard-ca-", suffix=".pem")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(pem)
    atexit.register(Path(name).unlink, missing_ok=True)
    return name
