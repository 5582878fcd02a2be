"""How a load stands to a volume, by table."""

import pytest

from modelyard.models import Listing, ModelRef
from modelyard.orders import VersionEntry, VersionState, VolumeSpace
from modelyard.plans.capacity import Capacity, Neighbours, RunningLoad, VolumeSeen, capacity_table, plan_capacity
from modelyard.plans.claim_facts import ClaimFacts

MODEL = ModelRef(name="llama", version="v1")
LISTING = Listing(digest="sha256:0a", files=10, bytes=100)
CLAIM = ClaimFacts("cache", "ml", "Bound", "nfs", ("ReadWriteMany",), requested_bytes=1000, capacity_bytes=1000)


def entry(state: VersionState, size: int, *, model: str = "llama", version: str = "v1", listing: str | None = "sha256:0a") -> VersionEntry:
    place = f"{model}/{version}"
    path = f".modelyard/staging/{place}" if state is VersionState.STAGING else place
    return VersionEntry(
        state=state, path=path, model=model, version=version, bytes=size, files=4, listing_digest=listing, source="s3://b/p"
    )


def plan(
    free: int,
    *versions: VersionEntry,
    headroom: int = 0,
    staged: int = 0,
    running: tuple[RunningLoad, ...] = (),
    inodes: int | None = None,
    neighbours: Neighbours | None = None,
    total: int = 1000,
) -> Capacity:
    counted = {} if inodes is None else {"total_inodes": 1000, "free_inodes": inodes}
    space = VolumeSpace(total_bytes=total, free_bytes=free, **counted)
    return plan_capacity(MODEL, LISTING, headroom, VolumeSeen(space, versions, staged, running, neighbours), CLAIM)


OTHER = RunningLoad(ModelRef(name="qwen", version="v1"), 60)
STAGED = entry(VersionState.STAGING, 40, listing=None)
QWEN = entry(VersionState.READY, 500, model="qwen", listing="sha256:0b")


@pytest.mark.parametrize(
    ("capacity", "needed"),
    [
        pytest.param(plan(100), 100, id="exactly"),
        pytest.param(plan(100, entry(VersionState.READY, 100)), 0, id="there"),
        pytest.param(plan(0, entry(VersionState.READY, 100)), 0, id="there, on a full volume"),
        pytest.param(plan(0, entry(VersionState.PUBLISHING, 100)), 0, id="all but published"),
        pytest.param(plan(60, STAGED, staged=40), 60, id="half of it staged"),
        pytest.param(plan(150, headroom=50), 100, id="with headroom"),
        pytest.param(plan(160, running=(OTHER,)), 100, id="beside another load"),
        pytest.param(plan(100, running=(RunningLoad(MODEL, 100),)), 100, id="beside itself, which it joins"),
        pytest.param(
            plan(130, entry(VersionState.STAGING, 30, model="qwen", listing=None), staged=30, running=(OTHER,)),
            100,
            id="beside another load that is half done",
        ),
        pytest.param(plan(100, inodes=10), 100, id="as many inodes as files"),
        pytest.param(
            plan(100, entry(VersionState.READY, 60, model="qwen"), running=(OTHER,)),
            100,
            id="another load, which only reads again what is there",
        ),
        pytest.param(plan(100, entry(VersionState.FOREIGN, 9, version="v2")), 100, id="another's files elsewhere"),
    ],
)
def test_it_fits(capacity: Capacity, needed: int) -> None:
    assert (capacity.problems, capacity.needed) == ((), needed)


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        pytest.param(plan(99), "has 99 B free of 1000 B; the model needs 100 B more: 1 B are missing", id="one byte short"),
        pytest.param(plan(59, STAGED, staged=40), "needs 60 B more (40 B are staged already): 1 B", id="staged and short"),
        pytest.param(plan(60, STAGED, staged=30), "needs 70 B more", id="staged with holes: blocks count, not sizes"),
        pytest.param(plan(149, headroom=50), "headroom is 50 B: 1 B are missing", id="headroom"),
        pytest.param(plan(159, running=(OTHER,)), "the loads that run now will write 60 B: 1 B", id="another load"),
        pytest.param(plan(100, inodes=9), "has 9 free inodes, the model's files need 10", id="inodes"),
        pytest.param(plan(5, QWEN), "remove versions from it: qwen/v1 (ready, 500 B); or raise storageSize", id="what could go"),
        pytest.param(
            plan(900, entry(VersionState.READY, 100, listing="sha256:ff")), "a version never changes in place", id="other content"
        ),
        pytest.param(
            plan(900, entry(VersionState.PUBLISHING, 100, listing="sha256:ff")), "a version never changes in place", id="half published"
        ),
        pytest.param(plan(900, entry(VersionState.DAMAGED, 9)), "is damaged", id="damaged"),
        pytest.param(plan(900, entry(VersionState.FOREIGN, 9)), "that Modelyard did not put there", id="another's directory"),
        pytest.param(
            plan(900, VersionEntry(state=VersionState.FOREIGN, path="llama", files=1)),
            "did not put there",
            id="a file in the model's place",
        ),
    ],
)
def test_it_does_not_fit(capacity: Capacity, words: str) -> None:
    (problem,) = capacity.problems
    assert words in str(problem)


def test_what_may_be_linked_or_freed_is_left_to_the_loader() -> None:
    linked = plan(20, entry(VersionState.READY, 90, version="v0", listing="sha256:00"))
    freed = plan(20, entry(VersionState.REMOVING, 90))
    for capacity, place in ((linked, "llama/v0"), (freed, "llama/v1")):
        assert capacity.problems == ()
        assert place in capacity.notes[0]
    assert plan(5, entry(VersionState.READY, 90, version="v0", listing="sha256:00")).problems


def test_a_share_that_enforces_no_size_is_told() -> None:
    capacity = plan(4000, total=5000, neighbours=Neighbours("NFS server:/exports", 3, 9000))
    assert "does not enforce its size: the claim says 1000 B, pods see 4.9 KiB" in capacity.notes[0]
    assert "NFS server:/exports is over-allocated: its 3 PersistentVolumes add up to 8.8 KiB, it has 4.9 KiB" in capacity.notes[1]
    assert plan(900, total=950).notes == ()
    assert "the claim says 1000 B, which the volume has not: pods see 700 B" in plan(600, total=700).notes[0]


def test_the_table_shows_the_biggest_first() -> None:
    table = capacity_table(plan(900, entry(VersionState.READY, 5, model="tiny", listing="sha256:0c"), QWEN))
    assert "900 B of 1000 B" in table
    assert table.index("qwen/v1") < table.index("tiny/v1")
