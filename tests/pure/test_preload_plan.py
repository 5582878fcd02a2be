"""The preload's plan, by table: versions, refusals, and that a plan's digest tells plans apart."""

import pytest

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Refused
from modelyard.models import Listing, ModelRef, Pin, S3Location, SourceFile, WeightPolicy, summarise
from modelyard.orders import LoadSpec
from modelyard.plans.preload import PreloadFacts, PreloadRequest, default_version, describe, plan_preload, read_listing
from modelyard.plans.storage_classes import StorageClassFacts

NFS = StorageClassFacts(name="nfs-client", provisioner="cluster.local/nfs-subdir-external-provisioner")
CACHE = CacheSpec(
    name="models",
    namespace="ml",
    storage_size=2**30,
    storage_class_name="nfs-client",
    loader_image="loader:1",
    access_mode=AccessMode.READ_WRITE_MANY,
)
SOURCE = S3Location(bucket="models", prefix="llama/v1")
FILES = (SourceFile("config.json", 7, etag='"a"'), SourceFile("model.safetensors", 2**20, version_id="1"))


def facts(*files: SourceFile, classes: tuple[StorageClassFacts, ...] = (NFS,)) -> PreloadFacts:
    listing, problems = read_listing(files or FILES, SOURCE, CACHE)
    return PreloadFacts(listing, problems, None, classes)


def request(version: str | None = None, model: str = "llama", source: S3Location = SOURCE) -> PreloadRequest:
    return PreloadRequest(model, version, source, CACHE)


def test_the_loader_is_told_what_the_plan_saw() -> None:
    plan = plan_preload(request(), facts())
    spec, claim = plan.approved()
    assert spec == LoadSpec(model=ModelRef(name="llama", version="v1"), source=SOURCE, listing=summarise(FILES))
    assert (claim.namespace, claim.name, claim.size) == ("ml", CACHE.claim, CACHE.storage_size)


@pytest.mark.parametrize(
    ("prefix", "version"),
    [
        pytest.param("llama/v1", "v1", id="the last directory"),
        pytest.param("team/llama/v1/", "v1", id="with a slash at the end"),
        pytest.param("llama", "0123456789ab", id="the last directory is the model's own name"),
        pytest.param("", "0123456789ab", id="the whole bucket"),
        pytest.param("llama/ünstable", "0123456789ab", id="the last directory is no name"),
    ],
)
def test_default_version(prefix: str, version: str) -> None:
    listing = Listing(digest="sha256:0123456789abcdef", files=1, bytes=1)
    assert default_version("llama", S3Location(bucket="models", prefix=prefix), listing) == version


@pytest.mark.parametrize(
    ("asked", "seen", "words"),
    [
        pytest.param(request(model="../x"), facts(), ["'../x'", "directory on the volume"], id="a hostile model name"),
        pytest.param(request(version="a/b"), facts(), ["'a/b'"], id="a hostile version"),
        pytest.param(request(), facts(SourceFile("a", 1), SourceFile("a/b", 1)), ["a/b", "directory"], id="file and directory at once"),
        pytest.param(
            request(), facts(SourceFile("w.bin", 1, storage_class="GLACIER")), ["w.bin", "--key llama/v1/w.bin"], id="an archived object"
        ),
        pytest.param(request(), facts(SourceFile("w.bin", 2**31)), ["1.0 GiB", "2.0 GiB", "storageSize"], id="larger than the whole claim"),
        pytest.param(request(), facts(classes=()), ["nfs-client"], id="no such StorageClass"),
    ],
)
def test_refusals_name_what_is_wrong(asked: PreloadRequest, seen: PreloadFacts, words: list[str]) -> None:
    plan = plan_preload(asked, seen)
    with pytest.raises(Refused) as refusal:
        plan.approved()
    assert all(word in str(refusal.value) for word in words)
    assert "Refused" in describe(plan)


def test_the_caches_gates_are_told_to_the_loader() -> None:
    cache = CACHE.model_copy(update={"weight_formats": WeightPolicy.NO_PICKLE, "require_digests": True})
    listing, problems = read_listing((*FILES, SourceFile("SHA256SUMS", 100, etag='"s"')), SOURCE, cache)
    plan = plan_preload(PreloadRequest("llama", None, SOURCE, cache), PreloadFacts(listing, problems, None, (NFS,), Pin.ETAG))
    spec, _ = plan.approved()
    assert (spec.weights, spec.require_digests, spec.pin) == (WeightPolicy.NO_PICKLE, True, Pin.ETAG)
    assert spec.content != plan_preload(request(), PreloadFacts(listing, problems, None, (NFS,))).approved()[0].content


def test_gates_refuse_by_names_what_they_can() -> None:
    cache = CACHE.model_copy(update={"weight_formats": WeightPolicy.NO_PICKLE, "require_digests": True})
    _, problems = read_listing((*FILES, SourceFile("pytorch_model.bin", 1)), SOURCE, cache)
    assert [problem.subject for problem in problems] == ["'pytorch_model.bin'", SOURCE.uri]
    assert "has no SHA256SUMS" in problems[1].what


def test_an_empty_prefix_is_refused() -> None:
    listing, problems = read_listing((), SOURCE, CACHE)
    plan = plan_preload(request(), PreloadFacts(listing, problems, None, (NFS,)))
    assert [problem.subject for problem in plan.problems] == ["s3://models/llama/v1/"]


def test_all_problems_are_told_at_once() -> None:
    plan = plan_preload(request(model="-", version="/"), facts(SourceFile("../x", 1), classes=()))
    assert len(plan.problems) == 4


def test_the_digest_tells_plans_apart() -> None:
    same, other = plan_preload(request(), facts()), plan_preload(request(), facts(*FILES[:1]))
    assert plan_preload(request(), facts()).digest == same.digest
    assert same.digest != other.digest


def test_the_listing_digest_sees_every_change() -> None:
    file = SourceFile("w.bin", 1, etag='"a"', version_id="1")
    others = [
        SourceFile("v.bin", 1, etag='"a"', version_id="1"),
        SourceFile("w.bin", 2, etag='"a"', version_id="1"),
        SourceFile("w.bin", 1, etag='"a"', version_id="2"),
    ]
    digests = {summarise([each]).digest for each in (file, *others)}
    assert len(digests) == 4
