"""The modelcar's plan, by table: how files become layers, what is refused, what a tag may do."""

import random

import pytest

from modelyard.errors import Problem, Refused
from modelyard.images.build import BaseImage, ModelLayer, Scan
from modelyard.images.descriptors import Descriptor, Platform
from modelyard.images.references import Reference
from modelyard.images.tar import layer_size
from modelyard.models import ClaimLocation, FileRecord, ModelRef, S3Location, SourceFile, WeightPolicy
from modelyard.plans.modelcar import (
    MAX_SHARED,
    MAX_WEIGHT_LAYERS,
    SMALL,
    Action,
    KnownLayer,
    ModelcarFacts,
    ModelcarPlan,
    ModelcarRequest,
    describe,
    group_files,
    plan_modelcar,
    source_problems,
    vouching_problems,
)

GIB = 1024**3
SOURCE = S3Location(bucket="models", prefix="llama/v1")
FILES = (SourceFile("config.json", 7, etag='"a"'), SourceFile("model.safetensors", GIB, version_id="1"))
BASE = BaseImage(platform=Platform(architecture="amd64"))
ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def request(**fields: object) -> ModelcarRequest:
    told = {
        "model": "llama",
        "version": "v1",
        "source": SOURCE,
        "image": Reference.parse("r.example/llama:v1"),
        "platforms": (BASE.platform,),
    }
    return ModelcarRequest.model_validate(told | fields)


def layer(files: tuple[SourceFile, ...], digest: str = ONE) -> ModelLayer:
    records = tuple(
        FileRecord(path=file.path, size=file.size, sha256="0" * 64, version_id=file.version_id, etag=file.etag) for file in files
    )
    return ModelLayer(digest=digest, size=layer_size(files), files=records)


def facts(*files: SourceFile, known: dict[int, KnownLayer] | None = None, **fields: object) -> ModelcarFacts:
    groups = group_files(files or FILES)
    found = tuple((known or {}).get(number) for number in range(len(groups)))
    return ModelcarFacts.model_validate({"groups": groups, "known": found, "bases": (BASE,)} | fields)


def all_known(repository: str = "llama") -> dict[int, KnownLayer]:
    return {number: KnownLayer(layer=layer(group), repository=repository) for number, group in enumerate(group_files(FILES))}


def refusals(plan: ModelcarPlan) -> str:
    with pytest.raises(Refused) as caught:
        plan.approved()
    return str(caught.value)


def test_groups_do_not_depend_on_the_listings_order() -> None:
    files = [SourceFile(f"{number:03}", size) for number, size in enumerate([1, SMALL, 5, SMALL - 1, 2 * SMALL, 0])]
    wanted = group_files(files)
    assert [[file.path for file in group] for group in wanted] == [["000", "002", "003", "005"], ["001"], ["004"]]
    for seed in range(20):
        shuffled = files.copy()
        random.Random(seed).shuffle(shuffled)  # noqa: S311 - any orders
        assert group_files(shuffled) == wanted


def test_128_weight_files_stay_within_what_runtimes_mount() -> None:
    groups = group_files(SourceFile(f"{number:03}", SMALL) for number in range(128))
    assert len(groups) <= MAX_WEIGHT_LAYERS
    assert [file.path for group in groups for file in group] == [f"{number:03}" for number in range(128)]


def test_many_small_files_make_several_layers() -> None:
    files = [SourceFile(f"{number:05}", SMALL - 1) for number in range(1100)]
    groups = group_files(files)
    assert [file for group in groups for file in group] == files
    assert len(groups) == 3
    assert all(layer_size(group) <= MAX_SHARED + 1024 for group in groups)


def test_new_reused_and_mounted() -> None:
    assert [each.action for each in plan_modelcar(request(), facts()).approved().layers] == [Action.NEW, Action.NEW]
    one = KnownLayer(layer=layer(FILES[1:]), repository="llama")
    plan = plan_modelcar(request(), facts(known={1: one}))
    assert [each.action for each in plan.layers] == [Action.NEW, Action.REUSED]
    assert (plan.new_bytes, plan.expected_digest) == (7, None)
    other = plan_modelcar(request(), facts(known={1: one.model_copy(update={"repository": "other"})}))
    assert [(each.action, each.origin) for each in other.layers] == [(Action.NEW, None), (Action.MOUNTED, "other")]


def test_a_plan_whose_layers_are_known_knows_its_image() -> None:
    plan = plan_modelcar(request(), facts(known=all_known()))
    assert plan.expected_digest
    assert not plan.is_done
    assert plan_modelcar(request(), facts(known=all_known(), tag_digest=plan.expected_digest)).is_done
    assert plan.expected_digest == plan_modelcar(request(), facts(known=all_known("other"))).expected_digest


def test_a_tag_is_not_moved_unless_asked() -> None:
    assert "not known to be this one; choose another tag" in refusals(plan_modelcar(request(), facts(tag_digest=TWO)))
    assert "another image; choose another tag" in refusals(plan_modelcar(request(), facts(known=all_known(), tag_digest=TWO)))
    plan_modelcar(request(move_tag=True), facts(tag_digest=TWO)).approved()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": Reference.parse("r.example/llama:latest")}, "the tag latest makes Kubernetes' pull policy Always"),
        ({"image": Reference.parse("r.example/llama")}, "no tag makes Kubernetes' pull policy Always"),
        ({"image": Reference(host="r.example", repository="Llama", tag="v 1")}, "'v 1' is no tag"),
        ({"image": Reference(host="r.example", repository="Llama", tag="v 1")}, "'Llama' is no repository"),
        ({"model": "../llama"}, "must be 1 to 100 letters"),
        ({"previous": Reference.parse("other.example/llama:v0")}, "is in another registry"),
        ({"platforms": ()}, "platforms: names none"),
    ],
)
def test_requests_that_are_refused(fields: dict[str, object], said: str) -> None:
    assert said in refusals(plan_modelcar(request(**fields), facts()))


@pytest.mark.parametrize("path", [".wh.config.json", "a/.wh..wh..opq", ".wh.a/b"])
def test_names_that_delete_are_refused(path: str) -> None:
    assert "deletes files in an image" in refusals(plan_modelcar(request(), facts(SourceFile(path, 1))))


def test_limits_of_registries_and_runtimes() -> None:
    large = request(image=Reference.parse("1.dkr.ecr.eu-west-1.amazonaws.com/llama:v1"))
    assert "takes 50.8 GiB" in refusals(plan_modelcar(large, facts(SourceFile("model.safetensors", 60 * GIB))))
    deep = BASE.model_copy(update={"layers": (Descriptor(media_type="t", digest=ONE, size=1),) * 120})
    assert "makes an image of 122 layers" in refusals(plan_modelcar(request(), facts(bases=(deep,))))
    many = [SourceFile(f"{number:06}", 1) for number in range(20_000)]
    assert "a manifest has" in refusals(plan_modelcar(request(), facts(*many)))


def test_all_problems_at_once() -> None:
    plan = plan_modelcar(
        request(model="-"), facts(SourceFile(".wh.x", 1), tag_digest=TWO, problems=(Problem("base", "is not there", "name another"),))
    )
    assert len(plan.problems) == 4
    assert plan.problems[1].subject == "base"
    assert "**Refused**" in describe(plan)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "lists no file"),
        ([SourceFile("../x", 1)], "holds '.' or '..'"),
        ([SourceFile("a", 1), SourceFile("A", 1)], "differs from 'a' only in case"),
        (
            [SourceFile("a", 1, storage_class="GLACIER"), SourceFile("b", 1, storage_class="GLACIER")],
            "'a', 'b': cannot be read: archived",
        ),
    ],
)
def test_sources_that_are_refused(files: list[SourceFile], said: str) -> None:
    assert said in "\n".join(str(problem) for problem in source_problems(files, S3Location(bucket="models")))


def test_a_plan_travels_as_json() -> None:
    plan = plan_modelcar(request(), facts(known={1: KnownLayer(layer=layer(FILES[1:]), repository="llama")}))
    assert ModelcarPlan.model_validate_json(plan.model_dump_json()) == plan
    assert "2, 1.0 GiB; 7 B to be read" in describe(plan)


PICKLED = (SourceFile("config.json", 7, etag='"a"'), SourceFile("model.bin", GIB, version_id="1"))


def scanned(scan: Scan) -> ModelcarFacts:
    """Both layers are there; what was found in the second is ``scan``."""
    layers = [layer(group).model_copy(update={"scan": each}) for group, each in zip(group_files(PICKLED), (Scan(), scan), strict=True)]
    known = {number: KnownLayer(layer=each, repository="llama") for number, each in enumerate(layers)}
    return facts(*PICKLED, known=known)


@pytest.mark.parametrize(
    ("scan", "policy", "said"),
    [
        (Scan(), WeightPolicy.NO_PICKLE, None),
        (Scan(pickled=("model.bin",)), WeightPolicy.SCAN, None),
        (Scan(pickled=("model.bin",)), WeightPolicy.NO_PICKLE, "'model.bin': is loaded by pickle, and weightFormats is no-pickle"),
        (Scan(pickled=("model.bin",), harmful=("model.bin",)), WeightPolicy.SCAN, "'model.bin': may do harm to whoever loads it"),
        (Scan(pickled=("model.bin",), harmful=("model.bin",)), WeightPolicy.ANY, None),
    ],
)
def test_what_was_found_in_a_layer_is_held_against_the_policy(scan: Scan, policy: WeightPolicy, said: str | None) -> None:
    plan = plan_modelcar(request(weights=policy), scanned(scan))
    if said:
        assert said in refusals(plan)
    else:
        assert not plan.problems


def test_names_that_pickles_have_are_refused_before_anything_is_read() -> None:
    files = (SourceFile("model.pt", GIB), SourceFile("state.pkl", 7))
    told = refusals(plan_modelcar(request(weights=WeightPolicy.NO_PICKLE), facts(*files)))
    assert told.count("is a format that pickle loads") == 2
    assert not plan_modelcar(request(weights=WeightPolicy.SCAN), facts(*files)).problems


A, B = "a" * 64, "b" * 64
SUMS_FILE = SourceFile("SHA256SUMS", 100, etag='"s"')


@pytest.mark.parametrize(
    ("sums", "required", "said"),
    [
        pytest.param(None, False, None, id="none, and none required"),
        pytest.param(None, True, "has no SHA256SUMS, and requireDigests is set", id="none"),
        pytest.param({"config.json": A, "model.safetensors": B}, True, None, id="all"),
        pytest.param({"config.json": A}, False, None, id="some"),
        pytest.param({"config.json": A}, True, "'model.safetensors' is not listed", id="some, and all required"),
        pytest.param({"config.json": A, "gone": B}, False, "'gone' is listed and not there", id="one that is not there"),
    ],
)
def test_the_authors_digests(sums: dict[str, str] | None, required: bool, said: str | None) -> None:  # noqa: FBT001 - a table's column
    listed = (*FILES, SUMS_FILE) if sums is not None else FILES
    whole = {**sums, "SHA256SUMS": A} if sums is not None else None
    plan = plan_modelcar(request(require_digests=required), facts(*listed, sums=whole))
    assert plan.digests == (whole or {})
    if said:
        assert said in refusals(plan)
    else:
        assert not plan.problems


def test_a_layer_that_is_there_and_is_not_its_authors() -> None:
    sums = {"config.json": "0" * 64, "model.safetensors": B}
    told = refusals(plan_modelcar(request(), facts(known=all_known(), sums=sums)))
    assert f"'model.safetensors' has the SHA-256 {'0' * 64}, not {B}" in told
    assert "config.json" not in told


def test_nobody_vouches_for_what_lies_on_a_claim() -> None:
    claim = ClaimLocation(claim="models", model=ModelRef(name="llama", version="v1"))
    assert [problem.subject for problem in vouching_problems(claim)] == ["path pvc://models/llama/v1"]
    assert not vouching_problems(SOURCE)
