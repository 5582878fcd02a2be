"""Small model images in the cluster's registry, with a shell and without, put together as the builder does but from bytes at hand."""

import hashlib

import devcluster
from modelyard.images.build import ModelLayer, build_image
from modelyard.images.descriptors import INDEX, MANIFEST, Platform, digest_of
from modelyard.images.references import Reference
from modelyard.images.tar import TRAILER, header, padding
from modelyard.kube.client import Kube
from modelyard.modelcar.resolve import read_bases
from modelyard.models import FileRecord, S3Location
from modelyard.oci.access import Access, Keychain
from modelyard.oci.registry import Repository
from modelyard.plans.modelcar import ModelcarRequest

FILES = {"config.json": b"{}", "sub/model.safetensors": b"weights" * 1000}


def push_model(
    cluster: devcluster.Cluster,
    kube: Kube,
    repository: str,
    *,
    based: bool,
    files: dict[str, bytes] | None = None,
    elsewhere: Access | None = None,
) -> str:
    """An image of the files for the cluster's node, under the tag v1; its reference. ``elsewhere``: another registry than the cluster's."""
    own = Access(cluster.registry, plain_http=True)
    access = elsewhere or own
    reference = Reference(host=access.host, repository=repository, tag="v1")
    base = Reference(host=cluster.registry, repository="library/busybox", tag="1.36") if based else None
    (node,) = kube.list("Node")
    platforms = (Platform(architecture=node["metadata"]["labels"]["kubernetes.io/arch"]),)
    request = ModelcarRequest(model="m", version="v1", source=S3Location(bucket="none"), image=reference, base=base, platforms=platforms)
    bases, _, problems = read_bases(request, Keychain(own))
    assert not problems
    with Repository(access, repository) as target, Repository(own, "library/busybox") as busybox:
        for below in (layer for each in bases for layer in each.layers):
            if elsewhere:
                target.put_blob(b"".join(busybox.stream_blob(below)))
            else:
                assert target.mount(below.digest, "library/busybox")
        layers = [_push_layer(target, files)] if (files := FILES if files is None else files) else []
        image = build_image(bases, layers, {}, {})
        for config in image.configs:
            target.put_blob(config)
        for manifest in image.manifests:
            target.put_manifest(MANIFEST, manifest, digest_of(manifest))
        target.put_manifest(INDEX, image.index, "v1")
    return str(reference)


def _push_layer(target: Repository, files: dict[str, bytes]) -> ModelLayer:
    entries = [header(path, len(body)) + body + padding(len(body)) for path, body in sorted(files.items())]
    content = b"".join([*entries, TRAILER])
    target.put_blob(content)
    records = tuple(FileRecord(path=path, size=len(body), sha256=hashlib.sha256(body).hexdigest()) for path, body in sorted(files.items()))
    return ModelLayer(digest=digest_of(content), size=len(content), files=records)
