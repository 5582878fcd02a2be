"""What is signed about an image, made from its own documents alone: the same for the same image, whoever signs it and when."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from modelyard import __version__
from modelyard.images.build import SOURCE, ModelLayer
from modelyard.images.descriptors import canonical
from modelyard.models import FileRecord
from modelyard.signing.bundles import make_statement

#: That an image is signed: https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
SIGNED = "https://sigstore.dev/cosign/sign/v1"
#: Which files a model has: https://github.com/ossf/model-signing-spec
MODEL = "https://model_signing/signature/v1.0"
#: What it was made from: https://slsa.dev/spec/v1.0/provenance
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://modelyard.dev/modelcar/v1"
_BUILDER = "https://modelyard.dev/build-modelcar"
#: What `model_signing` leaves out unless it is told otherwise, in signing as in checking.
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")


def signed_statement(digest: str) -> bytes:
    """That the image of this digest is signed."""
    return make_statement([{"digest": {"sha256": _hex(digest)}}], SIGNED, {})


def model_statement(name: str, files: Iterable[FileRecord]) -> bytes:
    """Which files the model has: what `model_signing sign key` says of a directory with them."""
    listed = sorted((file for file in files if not is_ignored(file.path)), key=lambda file: PurePosixPath(file.path).parts)
    root = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in listed)).hexdigest()
    resources = [{"name": file.path, "algorithm": "sha256", "digest": file.sha256} for file in listed]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
    return make_statement([{"name": name, "digest": {"sha256": root}}], MODEL, {"serialization": serialization, "resources": resources})


def provenance_statement(
    name: str, digests: Sequence[str], annotations: Mapping[str, str], platforms: Sequence[str], layers: Sequence[ModelLayer]
) -> bytes:
    """What the image of these digests (its own, and its platforms') was made from: each object with its version and its checksum."""
    title = {
        key: annotations[label]
        for key, label in (("model", "org.opencontainers.image.title"), ("version", "org.opencontainers.image.version"))
        if label in annotations
    }
    source = annotations.get(SOURCE, "")
    parameters = {"image": name, "platforms": list(platforms), "source": source, **title}
    objects = [_object(source, layer, file) for layer in layers for file in layer.files]
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": parameters,
        "resolvedDependencies": [*objects, *_base(annotations)],
    }
    run = {"builder": {"id": _BUILDER, "version": {"modelyard": __version__}}}
    subjects = [{"name": name, "digest": {"sha256": _hex(digest)}} for digest in digests]
    return make_statement(subjects, PROVENANCE, {"buildDefinition": definition, "runDetails": run})


def simple_signing(name: str, digest: str) -> bytes:
    """What cosign's older form signs: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md"""
    image = {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest}}
    return canonical({"critical": {**image, "type": "cosign container image signature"}, "optional": None})


def is_ignored(path: str) -> bool:
    """Whether the model's statement leaves a file out; the image's signature covers it."""
    return path.split("/", 1)[0] in IGNORED


def _object(source: str, layer: ModelLayer, file: FileRecord) -> dict[str, Any]:
    """A ResourceDescriptor: https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md"""
    version = f"?versionId={quote(file.version_id, safe='')}" if file.version_id else ""
    known = {"versionId": file.version_id, "etag": file.etag, "checksum": file.checksum and file.checksum.model_dump()}
    return {
        "name": file.path,
        "uri": f"{source}{quote(file.path)}{version}",
        "digest": {"sha256": file.sha256},
        "annotations": {"size": file.size, "layer": layer.digest, **{key: value for key, value in known.items() if value}},
    }


def _base(annotations: Mapping[str, str]) -> list[dict[str, Any]]:
    name, digest = (annotations.get(f"org.opencontainers.image.base.{part}", "") for part in ("name", "digest"))
    return [{"name": "base", "uri": f"oci://{name}", "digest": {"sha256": _hex(digest)}}] if digest else []


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
