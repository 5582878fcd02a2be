"""A loader whose clock is wrong, or jumps in mid-load: requests are signed with it, and certificates are compared with it."""

import os
from pathlib import Path

import pytest

from devcluster.packages import install_packages
from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, assert_absent, assert_published

HOUR = 3600


class Clock:
    """What the loader's process takes for the time of day; its monotonic clock is left alone, as a step of the real one leaves it."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._directory, self._library = directory, library
        self._file = directory / "faketime"
        # libfaketime moves the ends of sleeps on the monotonic clock, too, on which Python's are.
        (directory / "sitecustomize.py").write_text(
            "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"
        )
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Step by so many seconds from the real time; a running process sees it at once."""
        self._file.write_text(f"{seconds:+d}s\n")

    @property
    def environment(self) -> dict[str, str]:
        """For the loader's process."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(self._directory),
        }


@pytest.fixture(scope="module")
def library() -> Path:
    """libfaketime, from the machine's own packages."""
    install_packages(("libfaketime",))
    [found] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return found


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Clock:
    (tmp_path / "clock").mkdir()
    return Clock(tmp_path / "clock", library)


#: Behind by less than years is not among them: libfaketime makes waits on the monotonic clock fail then, which a real clock does not.
WRONG = [
    pytest.param(HOUR, "the clock of the machine that asks is wrong", id="an hour ahead"),
    pytest.param(10 * 365 * 24 * HOUR, "certificate has expired", id="ten years ahead", marks=pytest.mark.faults),
    pytest.param(-10 * 365 * 24 * HOUR, "certificate is not yet valid", id="ten years behind", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("offset", "told"), WRONG)
def test_a_wrong_clock_is_told_in_the_servers_words(offset: int, told: str, bucket: Bucket, loader: Loader, clock: Clock) -> None:
    bucket.put({"a": b"abc"})
    clock.jump(offset)
    loader.run(bucket.spec(), **clock.environment).failed("SourceDenied", told)
    assert_absent(loader.root)
    clock.jump(0)
    loader.run(bucket.spec(), **clock.environment).succeeded()
    assert_published(loader.root, {"a": b"abc"})


@pytest.mark.faults
def test_a_clock_that_is_minutes_off_does_no_harm(bucket: Bucket, loader: Loader, clock: Clock) -> None:
    files = {"a": b"abc", "large": os.urandom(12 * MIB)}
    bucket.put(files)
    clock.jump(600)
    loader.run(bucket.spec(), **clock.environment).succeeded()
    assert_published(loader.root, files)


@pytest.mark.faults
def test_a_jump_in_the_middle_of_a_load(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader, clock: Clock) -> None:
    """What was signed before arrives; what is signed after is refused, until the clock is right. Progress and waits take no harm."""
    files = {"stalled": os.urandom(1000), **{f"part-{number}": os.urandom(MIB) for number in range(6)}}
    bucket.put(files)
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.faults = [Fault(Kind.STALL, target="/stalled", times=1)]
    running = loader.start(spec, MODELYARD_LOADER_STALL_SECONDS="3", MODELYARD_LOADER_ATTEMPTS="2", **clock.environment)
    running.wait_until(lambda: '"files": 6' in running.output.read_text())
    clock.jump(HOUR)  # before the second try of the stalled file is signed
    running.wait().failed("SourceUnavailable", "stalled: ", code=75)  # in the engine's words, or for want of bytes
    assert_absent(loader.root)
    clock.jump(0)
    assert loader.run(spec, **clock.environment).succeeded()["fetched_bytes"] == len(files["stalled"])
    assert_published(loader.root, files)
