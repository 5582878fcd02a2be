"""Layers, references and images as values: against tarfile itself, against digests worked out by hand, by table."""

import hashlib
import io
import itertools
import json
import tarfile
from typing import Any

import pytest

from modelyard.errors import RegistryRefused
from modelyard.images.build import BaseImage, ModelLayer, Scan, build_image, read_layers
from modelyard.images.descriptors import MANIFEST, Descriptor, Document, Platform, canonical
from modelyard.images.limits import limits_of
from modelyard.images.references import Reference, moving_tag_problem
from modelyard.images.tar import TRAILER, header, layer_size, padding, segments
from modelyard.models import Checksum, FileRecord, SourceFile

GIB = 1024**3
PATHS = [
    "config.json",
    "a/b/c.bin",
    "x" * 93,  # with models/ the last name that a header holds by itself
    "x" * 94,
    "é" * 60,
    f"{'d' * 200}/{'f' * 255}",
    "with space+%\\.txt",
]


def archive(files: dict[str, bytes]) -> bytes:
    """A layer put together as the builder does it."""
    body = b"".join(header(path, len(content)) + content + padding(len(content)) for path, content in files.items())
    return body + TRAILER


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_a_layer_is_what_tarfile_reads(path: str, size: int) -> None:
    content = archive({path: b"x" * size, "next": b"n"})
    assert len(content) == layer_size([SourceFile(path, size), SourceFile("next", 1)])
    with tarfile.open(fileobj=io.BytesIO(content)) as read:
        first, second = read.getmembers()
    assert (first.name, first.size, first.mode, first.mtime, first.uid, first.gid) == (f"models/{path}", size, 0o644, 0, 0, 0)
    assert (first.uname, first.gname, second.name) == ("", "", "models/next")


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 9 * GIB, 200 * GIB])
def test_beyond_8_gib_one_header_block_says_the_size(size: int) -> None:
    block = header("model.safetensors", size)
    assert len(block) == 512
    assert tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size == size
    assert layer_size([SourceFile("model.safetensors", size)]) == 512 + size + (-size % 512) + 1024


def test_places_in_a_layer() -> None:
    files = [SourceFile("a", 513), SourceFile("y" * 120, 0), SourceFile("b", 512)]
    found = segments(files)
    assert [(each.start, each.body, each.end) for each in found] == [(0, 512, 1536), (1536, 3072, 3072), (3072, 3584, 4096)]
    assert layer_size(files) == 4096 + 1024


def test_an_index_by_hand() -> None:
    """The whole of a small image's bytes, written out: what changes them changes every digest that users have pinned."""
    record = FileRecord(path="a", size=1, sha256="0" * 64, etag='"e"', checksum=Checksum(algorithm="CRC32", value="AAAA"))
    layer = ModelLayer(digest=f"sha256:{'1' * 64}", size=2048, files=(record,))
    image = build_image([BaseImage(platform=Platform(architecture="amd64"))], [layer], {"k": "v"}, {"l": "w"})
    config = (
        b'{"architecture":"amd64","config":{"Labels":{"l":"w"}},"os":"linux",'
        b'"rootfs":{"diff_ids":["sha256:' + b"1" * 64 + b'"],"type":"layers"}}'
    )
    told = json.dumps(
        '[{"checksum":{"algorithm":"CRC32","value":"AAAA"},"etag":"\\"e\\"","path":"a","sha256":"' + "0" * 64 + '","size":1}]'
    )
    manifest = (
        '{"annotations":{"k":"v"},"config":{"digest":"sha256:' + hashlib.sha256(config).hexdigest() + f'","mediaType":'
        f'"application/vnd.oci.image.config.v1+json","size":{len(config)}}},"layers":[{{"annotations":{{"dev.modelyard.files":{told},'
        '"dev.modelyard.recipe":"1"},"digest":"sha256:' + "1" * 64 + '","mediaType":"application/vnd.oci.image.layer.v1.tar","size":2048}],'
        '"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    ).encode()
    assert image.configs == (config,)
    assert image.manifests == (manifest,)
    assert json.loads(image.index)["manifests"] == [
        {
            "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
            "mediaType": MANIFEST,
            "size": len(manifest),
            "platform": {"os": "linux", "architecture": "amd64"},
        }
    ]
    assert read_layers(Document(media_type=MANIFEST, content=manifest)) == [layer]


def test_a_base_keeps_its_settings_and_not_its_day() -> None:
    config = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "author": "somebody",
        "config": {"Cmd": ["sh"], "Labels": {"base": "1"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'2' * 64}"]},
        "history": [{"created": "2026-01-01T00:00:00Z"}],
    }
    below = Descriptor(
        media_type="application/vnd.docker.image.rootfs.diff.tar.gzip", digest=f"sha256:{'3' * 64}", size=7, annotations={"a": "b"}
    )
    base = BaseImage(platform=Platform(architecture="arm64", variant="v8"), config=config, layers=(below,))
    layer = ModelLayer(digest=f"sha256:{'1' * 64}", size=2048, files=(FileRecord(path="a", size=1, sha256="0" * 64),))
    image = build_image([base], [layer], {}, {"l": "w"})
    assert json.loads(image.configs[0]) == {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "config": {"Cmd": ["sh"], "Labels": {"base": "1", "l": "w"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'2' * 64}", f"sha256:{'1' * 64}"]},
    }
    first = json.loads(image.manifests[0])["layers"][0]
    assert first["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert "annotations" not in first


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({}, id="none"),
        pytest.param({"dev.modelyard.recipe": "0", "dev.modelyard.files": "[]"}, id="another recipe"),
        pytest.param({"dev.modelyard.recipe": "1", "dev.modelyard.files": "{"}, id="no JSON"),
        pytest.param({"dev.modelyard.recipe": "1", "dev.modelyard.files": "[]"}, id="no files"),
        pytest.param({"dev.modelyard.recipe": "1", "dev.modelyard.files": '[{"path": 1}]'}, id="no records"),
    ],
)
def test_layers_of_others_are_passed_over(annotations: dict[str, str]) -> None:
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{'1' * 64}", "size": 1, "annotations": annotations}
    assert read_layers(Document(media_type=MANIFEST, content=canonical({"layers": [layer]}))) == []


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("registry.example/models/llama:v1", "registry.example", "models/llama", "v1", None),
        ("localhost/m", "localhost", "m", None, None),
        ("127.0.0.1:5000/a/b__c/d-e.f:1.0_x", "127.0.0.1:5000", "a/b__c/d-e.f", "1.0_x", None),
        (f"r.example/m:v1@sha256:{'a' * 64}", "r.example", "m", "v1", f"sha256:{'a' * 64}"),
        ("[::1]:5000/m:v1", "[::1]:5000", "m", "v1", None),
    ],
)
def test_references(text: str, host: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)
    assert reference == Reference(host=host, repository=repository, tag=tag, digest=digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "busybox",
        "library/busybox:1",
        "r.example/UPPER:v1",
        "r.example/m:",
        "r.example/m:bad tag",
        "r.example/m@sha256:12",
        "r.example//m:v1",
        "https://r.example/m:v1",
    ],
)
def test_no_references(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|is no"):
        Reference.parse(text)


@pytest.mark.parametrize(("tag", "said"), [("latest", "the tag latest"), ("", "no tag"), (None, "no tag")])
def test_moving_tags_are_refused_with_the_reason(tag: str | None, said: str) -> None:
    assert said in str(moving_tag_problem(tag))
    assert "pull policy Always" in str(moving_tag_problem(tag))


@pytest.mark.parametrize(
    ("have", "want", "serves"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("windows/amd64", "linux/amd64", False),
    ],
)
def test_platforms(have: str, want: str, *, serves: bool) -> None:
    assert Platform.parse(have).serves(Platform.parse(want)) is serves


def test_known_registries() -> None:
    assert limits_of("123456789012.dkr.ecr.eu-west-1.amazonaws.com").never_resume
    assert limits_of("123456789012.dkr-ecr.eu-west-1.on.aws").never_resume
    assert limits_of("ghcr.io").chunked
    assert limits_of("registry.example").max_layer is None


@pytest.mark.parametrize(
    ("told", "scan"),
    [
        ('{"harmful":[],"pickled":["a.pt"],"revision":"1"}', Scan(pickled=("a.pt",))),
        ('{"harmful":[],"pickled":["a.pt"],"revision":"2"}', None),
        ("{", None),
        (None, None),
    ],
)
def test_what_a_scanner_found_is_believed_of_its_own_revision(told: str | None, scan: Scan | None) -> None:
    record = FileRecord(path="a.pt", size=1, sha256="0" * 64)
    layer = ModelLayer(digest=f"sha256:{'1' * 64}", size=2048, files=(record,), scan=Scan(pickled=("a.pt",)))
    listed = layer.descriptor.document()
    assert listed["annotations"].pop("dev.modelyard.scan") == '{"harmful":[],"pickled":["a.pt"],"revision":"1"}'
    if told:
        listed["annotations"]["dev.modelyard.scan"] = told
    [found] = read_layers(Document(media_type=MANIFEST, content=canonical({"layers": [listed]})))
    assert found == layer.model_copy(update={"scan": scan})


GOOD: dict[str, Any] = {"mediaType": "m", "digest": f"sha256:{'1' * 64}", "size": 1}
NO_LAYERS: list[Any] = [5, "x", {"a": 1}, [1], [{}], [GOOD, GOOD | {"size": -1}], [GOOD | {"annotations": {"a": 1}}]]


@pytest.mark.parametrize(
    "content", [b'{"layers": [' + b"[" * 100_000, *(canonical({"layers": layers}) for layers in NO_LAYERS)], ids=itertools.count()
)
def test_documents_that_are_none(content: bytes) -> None:
    with pytest.raises(RegistryRefused, match="the registry's answer is"):
        Document(media_type=MANIFEST, content=content).descriptors("layers")


def test_other_parts_of_documents_that_are_none() -> None:
    document = Document(media_type=MANIFEST, content=canonical({"annotations": [1], "config": {"size": "x"}}))
    with pytest.raises(RegistryRefused, match="no manifest: annotations: "):
        assert document.annotations
    with pytest.raises(RegistryRefused, match=r"no manifest: config\.mediaType: "):
        assert document.config
