"""Answers longer than they may be: no registry, and nobody before it, fills the memory of whoever asks."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus

import pytest

from modelyard.errors import ContentMismatch, Refused, RegistryMissing, RegistryRefused, RegistryUnavailable
from modelyard.images.descriptors import LAYER, Descriptor
from modelyard.models import OciLocation
from modelyard.oci.access import Access, Credentials
from modelyard.oci.bodies import MAX_ANSWER
from modelyard.oci.downloads import Download
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.sources.oci import OciSource
from tests.services.oci.bases import push_base
from tests.services.oci.registries import Registry
from tests.services.oci.registry_proxy import Fault, RegistryProxy, proxy_before
from tests.services.oci.test_reuse import new_repository

MIB = 1024 * 1024
ONCE = Patience(attempts=1)
LONG = b" " * (MAX_ANSWER + MIB)


@pytest.fixture
def proxy(registry_3: Registry) -> Iterator[RegistryProxy]:
    with proxy_before(registry_3) as running:
        yield running


@pytest.fixture
def repository(proxy: RegistryProxy) -> Iterator[Repository]:
    """Holds an image v1."""
    name = new_repository()
    push_base(proxy.registry.url, name, "v1", ("linux/amd64",), index=False)
    with Repository(proxy.keychain.main, name, ONCE) as found:
        yield found


def test_a_manifest_that_does_not_end(repository: Repository, proxy: RegistryProxy) -> None:
    proxy.faults = [Fault("^GET .*/manifests/", body=LONG)]
    with pytest.raises(RegistryRefused, match="answers with more than 4194304 bytes"):
        repository.find("v1")
    assert repository.find("v1")


def test_a_manifest_that_grows_when_it_is_unpacked(repository: Repository, proxy: RegistryProxy) -> None:
    bomb = gzip.compress(json.dumps({"annotations": {"a": " " * 64 * MIB}}).encode())
    assert len(bomb) < MIB
    proxy.faults = [Fault("^GET .*/manifests/", body=bomb, answer={"Content-Encoding": "gzip"})]
    with pytest.raises(RegistryRefused, match=r"comes packed \(gzip\), which was not asked for"):
        repository.find("v1")


def test_a_token_that_does_not_end(proxy: RegistryProxy) -> None:
    access = Access(proxy.host, plain_http=True, credentials=Credentials("u", "p"))
    with proxy_before(proxy.registry) as tokens, Repository(access, "m", ONCE) as found:
        proxy.faults = [Fault("^GET ", status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/v2/"'})]
        tokens.faults = [Fault("^GET ", body=LONG)]
        with pytest.raises(RegistryRefused, match="answers with more than"):
            found.find("v1")


def test_an_error_that_does_not_end_is_still_that_error(repository: Repository, proxy: RegistryProxy) -> None:
    proxy.faults = [Fault("^GET .*/manifests/", body=LONG)]
    assert repository.find("v9") is None
    blob = Descriptor.of(LAYER, b"not there")
    proxy.faults = [Fault("^GET .*/blobs/", body=LONG), Fault("^GET .*/blobs/", status=HTTPStatus.SERVICE_UNAVAILABLE)]
    with pytest.raises(RegistryMissing, match=f"@{blob.digest}: 404"):
        repository.get_blob(blob)
    with pytest.raises(RegistryUnavailable, match=f"@{blob.digest}: 503"):
        repository.get_blob(blob)


def test_a_blob_longer_than_it_is_told_to_be(repository: Repository, proxy: RegistryProxy) -> None:
    document = repository.find("v1")
    assert document
    blob = document.config
    proxy.faults = [Fault("^GET .*/blobs/", body=bytes(8 * MIB), times=2)]
    came: list[bytes] = []
    with pytest.raises(ContentMismatch, match=f"{blob.size} were told"):
        came.extend(repository.stream_blob(blob))
    assert sum(map(len, came)) <= blob.size + MIB
    with pytest.raises(ContentMismatch, match=f"{blob.size} were told"):
        repository.get_blob(blob)


def test_downloads_that_are_given_up_give_their_connections_back(repository: Repository) -> None:
    """More of them than there are connections."""
    content = bytes(3 * MIB)
    repository.put_blob(content)
    blob = Descriptor.of(LAYER, content)
    for _ in range(20):
        with closing(Download(repository, blob, 0, blob.size).chunks()) as chunks:
            next(chunks)
        with closing(repository.stream_blob(blob)) as chunks:
            next(chunks)
    assert repository.find("v1")


def test_an_image_of_more_layers_than_can_be_meant(repository: Repository, proxy: RegistryProxy) -> None:
    document = repository.find("v1")
    assert document
    manifest = json.loads(document.content)
    manifest["layers"] *= 1001
    repository.put_manifest(document.media_type, json.dumps(manifest).encode(), "deep")
    location = OciLocation(host=proxy.host, repository=repository.name, tag="deep")
    with closing(OciSource(location, proxy.keychain)) as source, pytest.raises(Refused, match="has more than 1000 layers"):
        next(source.list())
    assert not [line for line in proxy.passed if line.startswith("GET") and "/blobs/" in line]
