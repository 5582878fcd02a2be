"""The wait against a real API server, through a wire that is cut and mended."""

import threading
import time
from typing import Any

import pytest

from modelyard.errors import LoaderFailed, LoaderInterrupted
from modelyard.kube.client import Kube
from modelyard.kube.failures import Expired
from modelyard.kube.resources import ObjectRef
from modelyard.kube.wait import Ends, TimedOut, wait_for
from tests.cluster.support import SECONDS, config_map, wired

pytestmark = pytest.mark.cluster

ENDS: Ends[str] = Ends(
    done=lambda live: (live.get("data") or {}).get("done"),
    failed=lambda live: LoaderFailed("failed") if "failed" in (live.get("data") or {}) else None,
    deleted=lambda: LoaderInterrupted("deleted"),
)


def later(seconds: float, act: Any, *args: Any) -> None:
    threading.Timer(seconds, act, args).start()


@pytest.fixture
def ref(kube: Kube, namespace: str) -> ObjectRef:
    kube.create(config_map("c", namespace))
    return ObjectRef("ConfigMap", "c", namespace)


def test_what_is_done_already_ends_at_once(kube: Kube, namespace: str, ref: ObjectRef) -> None:
    kube.patch_merge("ConfigMap", "c", namespace, {"data": {"done": "yes"}})
    assert wait_for(kube, ref, ENDS, timeout=1) == "yes"


def test_a_change_ends_it_within_the_tick(kube: Kube, namespace: str, ref: ObjectRef) -> None:
    later(0.5, kube.patch_merge, "ConfigMap", "c", namespace, {"data": {"done": "yes"}})
    started = time.monotonic()
    assert wait_for(kube, ref, ENDS, timeout=200, tick_seconds=100) == "yes"
    assert time.monotonic() - started < 90


def test_failure_and_deletion_raise_the_callers_errors(kube: Kube, namespace: str, ref: ObjectRef) -> None:
    later(0.5, kube.delete, "ConfigMap", "c", namespace)
    with pytest.raises(LoaderInterrupted, match="deleted"):
        wait_for(kube, ref, ENDS, timeout=SECONDS)
    kube.create(config_map("c", namespace, failed="yes"))
    with pytest.raises(LoaderFailed, match="failed"):
        wait_for(kube, ref, ENDS, timeout=SECONDS)


class _Enough(Exception):
    """Ends a wait after some ticks."""


def test_ticks_without_events_and_the_time_out_tells_the_last_status(kube: Kube, namespace: str) -> None:
    kube.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}},
        }
    )
    ticks: list[float] = []

    def tick(_: Any) -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 4:
            raise _Enough

    never: Ends[str] = Ends(done=lambda _: None, failed=lambda _: None, deleted=lambda: LoaderInterrupted("deleted"))
    ref = ObjectRef("PersistentVolumeClaim", "p", namespace)
    with pytest.raises(_Enough):
        wait_for(kube, ref, never, timeout=SECONDS, on_tick=tick, tick_seconds=1)
    assert ticks[-1] - ticks[0] > 2, "one a second, and no more"
    with pytest.raises(TimedOut, match=rf"waited 1 s for PersistentVolumeClaim/{namespace}/p; last seen: phase Pending"):
        wait_for(kube, ref, never, timeout=1)


def test_survives_a_server_that_goes_and_comes_back(kube: Kube, kubeconfig: str, namespace: str, ref: ObjectRef) -> None:
    with wired(kubeconfig, kube) as (through, wire):
        later(1, wire.cut)
        later(2, kube.patch_merge, "ConfigMap", "c", namespace, {"data": {"done": "while away"}})
        later(4, wire.mend)
        assert wait_for(through, ref, ENDS, timeout=SECONDS, tick_seconds=1) == "while away"


def test_lists_again_when_its_version_has_expired(kube: Kube, namespace: str, ref: ObjectRef, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = kube.watch
    expired: list[Any] = []

    def expire_once(*args: Any, **options: Any) -> Any:
        if expired:
            return watch(*args, **options)
        expired.append(kube.patch_merge("ConfigMap", "c", namespace, {"data": {"done": "unseen by a watch"}}))
        raise Expired("watch ConfigMap failed: too old resource version")

    monkeypatch.setattr(kube, "watch", expire_once)
    assert wait_for(kube, ref, ENDS, timeout=SECONDS) == "unseen by a watch"
