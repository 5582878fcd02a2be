"""What registries are known to differ in. What is not in the table is taken to do as the specification says: one PATCH a layer.

Each row is what its vendor documents or users report; none of these services was met in this project's own tests.
"""

import re
from dataclasses import dataclass

_MIB = 1024 * 1024
_GIB = 1024 * _MIB

#: Image layers that every runtime mounts: CRI-O takes 128, docker and podman 127; overlayfs's options must fit in a page.
MAX_LAYERS = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_layer``: bytes, None if none is known. ``never_resume``: a broken upload is known not to go on there, or not where it
    says. ``chunked``: whether a long body must come without its size told.
    """

    max_layer: int | None = None
    never_resume: bool = False
    chunked: bool = False


_KNOWN = (
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html; its Range stays at the first chunk
    (r".+\.dkr[.-]ecr(-fips)?\..+\.(amazonaws\.com(\.cn)?|on\.aws)", Limits(max_layer=52_000 * _MIB, never_resume=True)),
    (r"public\.ecr\.aws", Limits(max_layer=10_000 * _MIB, never_resume=True)),
    # A PATCH with a Content-Length above 4 MiB is answered with 416
    (r"ghcr\.io", Limits(max_layer=10 * _GIB, never_resume=True, chunked=True)),
    (r"(.+-docker\.pkg\.dev|gcr\.io|.+\.gcr\.io)", Limits(never_resume=True)),
    # https://learn.microsoft.com/en-us/azure/container-registry/container-registry-skus
    (r".+\.azurecr\.(io|cn|us)", Limits(max_layer=200 * _GIB, never_resume=True)),
)


def limits_of(host: str) -> Limits:
    """What is known of the registry at ``host``."""
    return next((limits for pattern, limits in _KNOWN if re.fullmatch(pattern, host)), Limits())
