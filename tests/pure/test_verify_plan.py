"""What a verification reads, and how its findings are told."""

from datetime import date

import pytest

from modelyard.caches import CacheSpec
from modelyard.errors import Refused
from modelyard.models import ModelRef, S3Location
from modelyard.orders import DamageEntry, Entries, RegistryAddress, VerifyResult, VerifySpec
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.verify import damage_error, describe_verification, finding_rows, plan_verification, summary

CACHE = CacheSpec(name="main", namespace="models", storage_size=2**30, loader_image="loader:1")
CLAIM = ClaimFacts("modelyard-models-cache", "models", "Bound", "nfs", ("ReadWriteMany",), 2**30)
TODAY = date(2026, 11, 21)
DAMAGE = (
    DamageEntry(path="m/v1/x", problem="no manifest knows it", model="m", version="v1", foreign=True),
    DamageEntry(path="m/v1/b", problem="is missing; not repaired: gone", model="m", version="v1"),
    DamageEntry(path="m/v1/a", problem="is missing", model="m", version="v1", repaired=True),
)
RESULT = VerifyResult(
    versions=1,
    files=4,
    bytes=4096,
    read_files=2,
    read_bytes=2048,
    damaged=2,
    repaired=1,
    foreign=1,
    seconds=2.0,
    entries=Entries.of(()),
)


def test_the_day_is_the_seed() -> None:
    spec = plan_verification(CACHE, CLAIM, ["m@v1"], 0.25, TODAY, None)
    assert spec == VerifySpec(models=(ModelRef(name="m", version="v1"),), share=0.25, seed=TODAY.toordinal())
    assert spec.read_only


def test_a_repair_is_told_where_from_and_may_write() -> None:
    source = S3Location(bucket="models", prefix="p")
    address = RegistryAddress(host="registry.example")
    from_registry = plan_verification(CACHE, CLAIM, [], 1, TODAY, address)
    assert (from_registry.repair, from_registry.source, from_registry.registry) == (True, None, address)
    spec = plan_verification(CACHE, CLAIM, [], 1, TODAY, source)
    assert (spec.repair, spec.source, spec.read_only) == (True, source, False)
    with pytest.raises(ValueError, match="needs a source"):
        VerifySpec(repair=True)


def test_all_problems_at_once() -> None:
    with pytest.raises(Refused) as refused:
        plan_verification(CACHE, None, ["m", "m@../v"], 1, TODAY, None)
    assert len(refused.value.problems) == 3


def test_the_words() -> None:
    spec = VerifySpec(share=0.25, seed=5)
    assert summary(RESULT) == ("1 versions, 4 files, 4.0 KiB; read 2 files, 2.0 KiB in 2s, 0 MB/s; 2 damaged, 1 repaired; 1 foreign")
    told = describe_verification("models/cache", spec, RESULT)
    assert "**damaged**" in told
    assert "come round to all in 4 days" in told
    error = damage_error("models/cache", spec, RESULT, DAMAGE)
    assert error.startswith("models/cache: 1 of 4 files are damaged: m/v1/b is missing; not repaired: gone. Run verify-cache with repair")
    assert [row["state"] for row in finding_rows(DAMAGE)] == ["damaged", "repaired", "foreign"]
