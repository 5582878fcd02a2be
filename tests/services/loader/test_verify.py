"""A verification finds every kind of damage, and a repair mends it from the pinned objects or says why it cannot."""

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelyard.models import Manifest, ModelRef
from modelyard.orders import VerifySpec
from tests.services.s3_fixtures import REPOSITORY, Bucket, Loader, Run, assert_published, tree

FILES = {"config.json": b"{}", "model.safetensors": os.urandom(3_000_000), "sub/tok.json": b"tokens", "empty": b""}
#: In the order of the bucket's kinds: pinned by ETag, pinned by VersionId.
BUCKETS = ["bucket", "versioned_bucket"]


@pytest.fixture
def source(request: pytest.FixtureRequest) -> Bucket:
    made: Bucket = request.getfixturevalue(getattr(request, "param", "versioned_bucket"))
    return made


@pytest.fixture
def volume(source: Bucket, loader: Loader) -> Path:
    """A volume with m@v1 on it."""
    source.put(FILES)
    loader.run(source.spec()).succeeded()
    return loader.root


def repairing(bucket: Bucket, **fields: Any) -> VerifySpec:
    return VerifySpec(repair=True, source=bucket.location(prefix=""), **fields)


def told(run: Run) -> dict[str, str]:
    """What was found, by path."""
    run.succeeded()
    return {entry["path"]: entry["problem"] for entry in found(run)}


def found(run: Run) -> list[dict[str, Any]]:
    """The entries that are findings."""
    return [entry for entry in run.entries if "path" in entry]


def verdicts(run: Run) -> dict[str, tuple[int, int]]:
    """Of each version: the damage that is left, and what was repaired."""
    run.succeeded()
    return {f"{each['model']}@{each['version']}": (each["damaged"], each["repaired"]) for each in run.entries if "path" not in each}


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def flip_model(version: Path) -> None:
    flip(version / "model.safetensors")


def truncate(version: Path) -> None:
    os.truncate(version / "model.safetensors", 1000)


def lose(version: Path) -> None:
    (version / "model.safetensors").unlink()


def link_out(version: Path) -> None:
    (version / "model.safetensors").unlink()
    (version / "model.safetensors").symlink_to("/etc/hostname")


def pipe(version: Path) -> None:
    (version / "model.safetensors").unlink()
    os.mkfifo(version / "model.safetensors")


def lose_all(version: Path) -> None:
    subprocess.run(["rm", "-r", version], check=True)


DAMAGES = [
    pytest.param(flip_model, "was published with", 1, id="a flipped bit"),
    pytest.param(truncate, "has 1000 bytes, not 3000000", 1, id="truncated"),
    pytest.param(lose, "is missing", 1, id="missing"),
    pytest.param(link_out, "is a symbolic link", 1, id="a link in its place"),
    pytest.param(pipe, "is a pipe", 1, id="a pipe in its place"),
    pytest.param(lose_all, "is missing", 4, id="the whole directory"),
]


def test_a_sound_volume(volume: Path, loader: Loader) -> None:
    before = tree(volume)
    result = loader.run(VerifySpec()).succeeded()
    total = sum(map(len, FILES.values()))
    assert (result["versions"], result["files"], result["bytes"], result["read_bytes"]) == (1, 4, total, total)
    assert (result["read_files"], result["damaged"], result["foreign"]) == (4, 0, 0)
    assert tree(volume) == before


@pytest.mark.parametrize(("damage", "words", "files"), DAMAGES)
def test_damage_is_told_and_nothing_is_written(volume: Path, loader: Loader, damage: Any, words: str, files: int) -> None:
    damage(volume / "m/v1")
    before = list(tree(volume))
    run = loader.run(VerifySpec())
    assert words in told(run)["m/v1/model.safetensors"]
    assert (run.message["damaged"], run.message["repaired"]) == (files, 0)
    assert list(tree(volume)) == before


@pytest.mark.parametrize("source", BUCKETS, indirect=True)
@pytest.mark.parametrize(("damage", "words", "files"), DAMAGES)
def test_damage_is_repaired(source: Bucket, volume: Path, loader: Loader, damage: Any, words: str, files: int) -> None:
    damage(volume / "m/v1")
    run = loader.run(repairing(source))
    assert words in told(run)["m/v1/model.safetensors"]
    assert (run.message["damaged"], run.message["repaired"]) == (files, files)
    assert_published(volume, FILES)
    assert loader.run(VerifySpec()).succeeded()["damaged"] == 0


def test_a_reader_that_has_the_file_open_keeps_it(source: Bucket, volume: Path, loader: Loader) -> None:
    flip_model(volume / "m/v1")
    with (volume / "m/v1/model.safetensors").open("rb") as file:
        loader.run(repairing(source)).succeeded()
        assert file.read() != FILES["model.safetensors"]
    assert_published(volume, FILES)


def test_foreign_files_are_told_and_never_touched(source: Bucket, volume: Path, loader: Loader) -> None:
    theirs = {
        "m/v1/notes.txt": "mine",
        "m/v2/half.bin": "x",
        "stray": "s",
        "other/v1/file": "y",
        "lost+found/1": "z",
        "m/v1/.nfs0000000012ab": "n",
    }
    for path, text in theirs.items():
        (volume / path).parent.mkdir(parents=True, exist_ok=True)
        (volume / path).write_text(text)
    (volume / "m/v3").mkdir()  # by the kubelet, for a subPath
    flip_model(volume / "m/v1")
    run = loader.run(repairing(source))
    assert {entry["path"] for entry in found(run) if entry["foreign"]} == {"m/v1/notes.txt", "m/v2", "stray", "other/v1"}
    assert (run.message["foreign"], run.message["damaged"], run.message["repaired"]) == (4, 1, 1)
    assert {path: (volume / path).read_text() for path in theirs} == theirs
    named = loader.run(VerifySpec(models=(ModelRef(name="m", version="v1"),)))
    assert set(told(named)) == {"m/v1/notes.txt"}


def tamper(volume: Path, **fields: Any) -> None:
    path = volume / ".modelyard/manifests/m/v1.json"
    manifest = Manifest.model_validate_json(path.read_text())
    path.write_text(manifest.model_copy(update=fields).model_dump_json(by_alias=True))


def test_a_manifest_that_was_changed_is_damage_and_nothing_is_repaired_by_it(source: Bucket, volume: Path, loader: Loader) -> None:
    manifest = Manifest.model_validate_json((volume / ".modelyard/manifests/m/v1.json").read_text())
    tamper(volume, files=manifest.files[1:])
    run = loader.run(repairing(source))
    assert "manifest was changed" in told(run)[".modelyard/manifests/m/v1.json"]
    (volume / ".modelyard/manifests/m/v1.json").write_text("{half")
    run = loader.run(repairing(source))
    assert "is not a readable manifest" in told(run)[".modelyard/manifests/m/v1.json"]
    assert (run.message["damaged"], run.message["repaired"], run.message["foreign"]) == (1, 0, 0)


def test_a_version_that_is_not_there(volume: Path, loader: Loader) -> None:
    assert volume.is_dir()
    run = loader.run(VerifySpec(models=(ModelRef(name="m", version="v9"),)))
    assert "m@v9 is not on the volume" in told(run)[".modelyard/manifests/m/v9.json"]


def test_shares_come_round(source: Bucket, loader: Loader) -> None:
    files = {f"part-{number}": os.urandom(1000 + number) for number in range(40)}
    source.put(files)
    loader.run(source.spec()).succeeded()
    flip(loader.root / "m/v1/part-7")
    runs = [loader.run(VerifySpec(share=0.25, seed=seed)) for seed in range(20_000, 20_004)]
    assert sum(run.succeeded()["read_files"] for run in runs) == 40
    assert sum(run.message["read_bytes"] for run in runs) == sum(map(len, files.values()))
    assert sorted(run.message["damaged"] for run in runs) == [0, 0, 0, 1]
    assert all(run.message["read_bytes"] < sum(map(len, files.values())) / 2 for run in runs)


@pytest.mark.parametrize("source", BUCKETS, indirect=True)
def test_an_object_that_is_gone_is_told_and_the_others_are_repaired(source: Bucket, volume: Path, loader: Loader) -> None:
    flip_model(volume / "m/v1")
    (volume / "m/v1/config.json").unlink()
    manifest = Manifest.model_validate_json((volume / ".modelyard/manifests/m/v1.json").read_text())
    [record] = [record for record in manifest.files if record.path == "model.safetensors"]
    pin = {"VersionId": record.version_id} if record.version_id else {}
    source.client.delete_object(Bucket=source.name, Key="m/v1/model.safetensors", **pin)  # type: ignore[arg-type]
    run = loader.run(repairing(source))
    assert "not repaired" in told(run)["m/v1/model.safetensors"]
    assert {entry["path"]: entry["repaired"] for entry in found(run)} == {"m/v1/model.safetensors": False, "m/v1/config.json": True}
    assert verdicts(run) == {"m@v1": (1, 1)}
    assert (run.message["damaged"], run.message["repaired"]) == (2, 1)
    assert (volume / "m/v1/config.json").read_bytes() == FILES["config.json"]
    assert not (volume / ".modelyard/staging/m/v1").exists()


def test_an_object_that_was_replaced_is_not_put_in_its_place(bucket: Bucket, loader: Loader) -> None:
    bucket.put(FILES)
    loader.run(bucket.spec()).succeeded()
    flip_model(loader.root / "m/v1")
    bucket.put({"model.safetensors": os.urandom(3_000_000)})
    before = tree(loader.root)
    run = loader.run(repairing(bucket))
    assert "not repaired" in told(run)["m/v1/model.safetensors"]
    assert run.message["repaired"] == 0
    assert tree(loader.root / "m") == {path.removeprefix("m/"): digest for path, digest in before.items() if path.startswith("m/")}


def test_a_source_that_refuses_and_one_of_another_bucket(source: Bucket, volume: Path, loader: Loader) -> None:
    flip_model(volume / "m/v1")
    denied = loader.run(repairing(source), AWS_SECRET_ACCESS_KEY="wrong")
    assert "not repaired" in told(denied)["m/v1/model.safetensors"]
    other = source.location(prefix="").model_copy(update={"bucket": "another-bucket"})
    run = loader.run(VerifySpec(repair=True, source=other))
    assert "name that bucket's block" in told(run)["m/v1/model.safetensors"]
    assert run.message["repaired"] == 0


def test_hard_linked_copies_are_mended_together(source: Bucket, volume: Path, loader: Loader) -> None:
    source.put({"config.json": b"{2}"})
    assert loader.run(source.spec(version="v2")).succeeded()["linked_bytes"] >= 3_000_000
    assert (volume / "m/v1/model.safetensors").samefile(volume / "m/v2/model.safetensors")
    flip_model(volume / "m/v1")
    run = loader.run(repairing(source))
    assert set(told(run)) == {"m/v1/model.safetensors", "m/v2/model.safetensors"}
    assert (run.message["damaged"], run.message["repaired"]) == (2, 2)
    assert_published(volume, FILES)
    assert_published(volume, {**FILES, "config.json": b"{2}"}, version="v2")
    assert (volume / "m/v1/model.safetensors").samefile(volume / "m/v2/model.safetensors")
    assert len([each for each in source.requests("GetObject") if each.key.endswith("model.safetensors")]) >= 1


def test_links_outside_what_was_named_are_told(source: Bucket, volume: Path, loader: Loader) -> None:
    source.put({"config.json": b"{2}"})
    loader.run(source.spec(version="v2")).succeeded()
    flip_model(volume / "m/v1")
    run = loader.run(repairing(source, models=(ModelRef(name="m", version="v1"),)))
    assert "1 more hard links" in told(run)["m/v1/model.safetensors"]
    assert_published(volume, FILES)
    assert "m/v2/model.safetensors" in told(loader.run(VerifySpec()))


def test_a_version_that_is_being_written_is_left_alone(source: Bucket, volume: Path, loader: Loader) -> None:
    flip_model(volume / "m/v1")
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(volume / ".modelyard/locks/m@v1.lock")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        run = loader.run(repairing(source))
        holder.communicate()
    assert "another loader" in told(run)["m/v1/model.safetensors"]
    assert loader.run(repairing(source)).succeeded()["repaired"] == 1


def test_a_killed_repair_goes_on(source: Bucket, loader: Loader) -> None:
    files = {"a": os.urandom(9_000_000), "b": b"b"}
    source.put(files)
    loader.run(source.spec()).succeeded()
    for path in ("a", "b"):
        (loader.root / "m/v1" / path).unlink()
    for point in ("first-byte", "mid-file", "before-fsync"):
        assert loader.run(repairing(source), MODELYARD_KILL_AT=point).code == -9
    assert loader.run(repairing(source)).succeeded()["repaired"] == 2
    assert_published(loader.root, files)


def test_much_damage_is_counted_and_its_list_is_short(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"x": b"x"})
    loader.run(bucket.spec()).succeeded()
    for number in range(2100):
        (loader.root / "m/v1" / f"{number}-{secrets.token_hex(2)}").touch()
    run = loader.run(VerifySpec())
    assert run.succeeded()["foreign"] == 2100
    assert (len(found(run)), run.entries[-1]["problem"]) == (2001, "and 100 more findings")


def test_each_version_that_was_looked_at_has_its_verdict(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"x": b"x"})
    digest = loader.run(bucket.spec()).succeeded()["digest"]
    loader.run(bucket.spec(version="v2")).succeeded()
    (loader.root / ".modelyard/manifests/m/v2.json").write_text("{")
    run = loader.run(VerifySpec())
    assert verdicts(run) == {"m@v1": (0, 0), "m@v2": (1, 0)}
    sound, broken = (each for each in run.entries if "path" not in each)
    assert (sound["digest"], sound["files"], sound["bytes"]) == (digest, 1, 1)
    assert "digest" not in broken
