"""What an order's source is read with in the loader's pod: credentials and authorities come from its environment."""

import os

from modelyard.loader.progress import say
from modelyard.models import Origin, Pin, S3Location
from modelyard.oci.environment import keychain_of
from modelyard.sources.base import Source
from modelyard.sources.oci import OciSource
from modelyard.sources.s3 import S3Source, s3_client


def open_source(location: Origin, pin: Pin | None = None) -> Source:
    """The source at ``location``; an image is read to its last byte where its layers do not tell their files."""
    if isinstance(location, S3Location):
        return S3Source(location, s3_client(location), pin)
    keychain = keychain_of(os.environ, location.host, plain_http=location.plain_http)
    return OciSource(location, keychain, whole=True, on_note=lambda text: say("note", message=text))
