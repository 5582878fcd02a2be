"""The loader's protocol with real Jobs and pods: a shell stands in for the loader, everything around it is real."""

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster
from modelyard.caches import AccessMode, CacheSpec, LoaderResources
from modelyard.errors import ClusterRefused, LoaderFailed, LoaderInterrupted, NotEnoughSpace, VersionConflict
from modelyard.kube import run_loader
from modelyard.kube.apply import apply
from modelyard.kube.client import Kube
from modelyard.kube.follow import Stuck
from modelyard.kube.loader_job import loader_job, loader_secret
from modelyard.kube.run_loader import JobHandle, end_jobs_of_run, end_never_started, ensure_job, remove_job, wait_for_job
from modelyard.kube.wait import TimedOut
from modelyard.orders import LoadResult, LoadSpec, Progress, VerifyLevel
from modelyard.plans.claim import ClaimAction, ClaimPlan
from modelyard.volumes.claims import claim_manifest, wait_bound
from tests.cluster.support import SECONDS, Manifest, cache_spec, limited, load_spec, until_refused, wait_until

pytestmark = pytest.mark.cluster

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hunter2", "ca.crt": "pem"}
RESULT = LoadResult(digest="sha256:0a", files=2, bytes=30, fetched_bytes=30, seconds=1.5)
PROGRESS = Progress(bytes=10, total_bytes=30, files=1, total_files=2)
Builder = Callable[..., Manifest]
Script = Callable[..., Builder]


def says(data: Any) -> str:
    return f"echo '{json.dumps(data)}' > /dev/termination-log"


SUCCEEDS = says({"event": "result", **RESULT.model_dump()})
RUNS_ON = "exec sleep 300"
#: Until the test lays this file on the volume: on a busy machine no number of seconds is surely enough, or surely too few.
HELD = "until test -e $MODELYARD_ROOT/go-on; do sleep 0.2; done"


@pytest.fixture(autouse=True)
def _restricted(kube: Kube, namespace: str) -> None:
    """Every Job of these tests is admitted under the restricted Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch_merge("Namespace", namespace, None, {"metadata": {"labels": labels}})
    until_refused(kube, pod({"containers": [{"name": "c", "image": "busybox:1.36"}]}, namespace), "violates PodSecurity")


def pod(spec: Manifest, namespace: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}, "spec": spec}


@pytest.fixture
def cache(kube: Kube, namespace: str) -> CacheSpec:
    """A cache whose claim is there."""
    spec = cache_spec(namespace)
    plan = ClaimPlan(ClaimAction.CREATE, namespace, spec.claim, "devcluster-shared", AccessMode.READ_WRITE_MANY, spec.storage_size)
    kube.create(claim_manifest(spec, plan))
    return spec


def directory(kube: Kube, cache: CacheSpec) -> Path:
    """Where the claim's files are on this side."""
    volume = kube.get("PersistentVolume", wait_bound(kube, cache.namespace, cache.claim, SECONDS).volume_name or "")
    assert volume
    return Path(volume["spec"]["hostPath"]["path"])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a shell script in the loader's place; gives the builder that does so, as ensure_job now has it."""

    def use(text: str, **spec: Any) -> Builder:
        def with_command(*args: Any, **options: Any) -> Manifest:
            job = loader_job(*args, **options)
            job["spec"]["template"]["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", text]
            job["spec"].update(spec)
            return job

        monkeypatch.setattr(run_loader, "loader_job", with_command)
        return with_command

    return use


def ignore(_: object) -> None: ...


def wait(kube: Kube, handle: JobHandle, **options: Any) -> LoadResult:
    return wait_for_job(kube, handle, LoadResult, options.pop("on_progress", ignore), timeout=SECONDS, **options).result


def until_gone(kube: Kube, kind: str, name: str, namespace: str) -> None:
    wait_until(lambda: kube.get(kind, name, namespace) is None)


def test_a_load_reports_progress_and_result_and_leaves_nothing(kube: Kube, cache: CacheSpec, script: Script) -> None:
    line = json.dumps({"event": "progress", **PROGRESS.model_dump()})
    identity = "test $(id -u) = 10001 && test ${#AWS_SECRET_ACCESS_KEY} = 7 && test $(cat $AWS_CA_BUNDLE) = pem"
    retry = json.dumps({"event": "retry", "message": "x: reset; tried again"})
    script(f"{identity} && touch $MODELYARD_ROOT/f /tmp/f || exit 9; echo '{retry}'; echo '{line}'; {HELD}; {SUCCEEDS}")
    seen, notes = list[Progress](), list[str]()
    handle = ensure_job(kube, load_spec(), cache, KEYS, "run-1")
    assert wait(kube, handle, on_progress=let_go_on(kube, cache, seen), on_note=notes.append) == RESULT
    assert seen == [PROGRESS]
    assert len([note for note in notes if note.endswith(f"{handle.name}: x: reset; tried again")]) == 1
    job = kube.get("Job", handle.name, cache.namespace)
    assert "hunter2" not in json.dumps(job)
    remove_job(kube, handle)
    until_gone(kube, "Job", handle.name, cache.namespace)
    until_gone(kube, "Secret", handle.name, cache.namespace)


def let_go_on(kube: Kube, cache: CacheSpec, seen: list[Progress]) -> Callable[[Progress], None]:
    """Hears of progress, and ends what is HELD for it."""
    root = directory(kube, cache)

    def heard(progress: Progress) -> None:
        seen.append(progress)
        (root / "go-on").touch()

    return heard


def test_an_account_of_one_namespace_loads(kube: Kube, kubeconfig: str, cache: CacheSpec, script: Script) -> None:
    script(f"echo '{json.dumps({'event': 'progress', **PROGRESS.model_dump()})}'; {HELD}; {SUCCEEDS}")
    account = limited(kube, kubeconfig, cache.namespace)
    seen: list[Progress] = []
    ensure_job(account, load_spec(), cache, KEYS, "run-1")
    handle = ensure_job(account, load_spec(), cache, KEYS, "run-2")
    assert wait(account, handle, on_progress=let_go_on(kube, cache, seen)) == RESULT
    assert seen == [PROGRESS]
    assert end_jobs_of_run(account, cache.namespace, "run-2") == (handle.name,)


def test_a_second_run_adopts_the_job_and_cancelling_the_first_leaves_it(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(RUNS_ON)
    first = ensure_job(kube, load_spec(), cache, KEYS, "run-1")
    second = ensure_job(kube, load_spec(), cache, KEYS, "run-2")
    assert (first.adopted, second.adopted, second.uid) == (False, True, first.uid)
    assert end_jobs_of_run(kube, cache.namespace, "run-1") == ()
    assert end_jobs_of_run(kube, cache.namespace, "run-2") == (first.name,)
    until_gone(kube, "Job", first.name, cache.namespace)


def test_a_run_killed_before_the_secret_is_completed_by_the_next(kube: Kube, cache: CacheSpec, script: Script) -> None:
    build = script(f'test "$AWS_ACCESS_KEY_ID" = id || exit 9; {SUCCEEDS}')
    spec = load_spec()
    name = loader_job(spec, cache, run_id="killed")["metadata"]["name"]
    kube.create(build(spec, cache, run_id="killed", secret_keys=KEYS.keys()))  # and here the first run died
    handle = ensure_job(kube, spec, cache, KEYS, "run-2")
    assert handle.adopted
    secret = kube.get("Secret", name, cache.namespace)
    assert secret
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [handle.uid]
    assert wait(kube, handle) == RESULT


def test_a_secret_left_by_an_earlier_job_becomes_this_jobs(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(RUNS_ON)
    other = ensure_job(kube, load_spec(version="v0"), cache, {}, "run-0")
    left = kube.get("Job", other.name, cache.namespace)
    assert left
    name = loader_job(load_spec(), cache, run_id="run-1")["metadata"]["name"]
    secret = loader_secret(left, {"AWS_ACCESS_KEY_ID": "old", "AWS_SESSION_TOKEN": "old"})
    apply(kube, {**secret, "metadata": {**secret["metadata"], "name": name}})
    handle = ensure_job(kube, load_spec(), cache, KEYS, "run-1")
    now = kube.get("Secret", name, cache.namespace)
    assert now
    assert [owner["uid"] for owner in now["metadata"]["ownerReferences"]] == [handle.uid]
    assert set(now["data"]) == {*KEYS, "AWS_CA_BUNDLE"}


def test_another_pod_of_the_same_content_is_replaced_before_it_begins_and_joined_after(
    kube: Kube, cache: CacheSpec, script: Script
) -> None:
    script(RUNS_ON)
    broken = ensure_job(kube, load_spec(), cache.model_copy(update={"loader_image": "loader:nowhere"}), KEYS, "run-1")
    mended = ensure_job(kube, load_spec(), cache, KEYS, "run-2")
    assert (mended.adopted, mended.uid == broken.uid) == (False, False)
    begun(kube, mended)
    joined = ensure_job(kube, load_spec(), cache.model_copy(update={"service_account": "default"}), {}, "run-3")
    assert (joined.adopted, joined.uid) == (True, mended.uid)
    assert kube.get("Secret", mended.name, cache.namespace), "the Secret of the Job that is joined stays as it is"


def test_a_load_that_checks_less_is_awaited_and_then_run_again(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(f"{HELD}; {SUCCEEDS}")
    first = ensure_job(kube, load_spec(), cache, {}, "run-1")
    begun(kube, first)
    with pytest.raises(TimedOut, match=f"for {first.ref}"):
        ensure_job(kube, thorough(), cache, {}, "run-2", deadline=timedelta(seconds=1))
    (directory(kube, cache) / "go-on").touch()
    second = ensure_job(kube, thorough(), cache, {}, "run-2")
    assert (second.adopted, second.uid == first.uid) == (False, False)
    assert wait(kube, second) == RESULT


def thorough() -> LoadSpec:
    return load_spec().model_copy(update={"verify": VerifyLevel.DIGESTS})


def begun(kube: Kube, handle: JobHandle) -> None:
    wait_until(lambda: any(map(runs, kube.list("Pod", handle.namespace, label_selector=f"job-name={handle.name}"))))


def runs(pod: Manifest) -> bool:
    return bool(pod["status"].get("phase") == "Running")


def test_a_crashed_runs_job_goes_if_it_never_started(kube: Kube, cache: CacheSpec, script: Script) -> None:
    build = script(RUNS_ON)
    running = ensure_job(kube, load_spec(version="v1"), cache, {}, "run-1")
    begun(kube, running)
    waiting = {"secret_keys": KEYS.keys()}  # suspended until they have their Secret
    left = kube.create(build(load_spec(version="v2"), cache, run_id="run-1", **waiting))["metadata"]["name"]  # and here the run died
    kube.create(build(load_spec(version="v3"), cache, run_id="run-2", **waiting))
    assert end_never_started(kube, cache.namespace, "run-1") == (left,)
    assert end_never_started(kube, cache.namespace, "run-1") == ()
    assert len(kube.list("Job", cache.namespace)) == 2


def test_a_finished_job_is_replaced(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(SUCCEEDS)
    first = ensure_job(kube, load_spec(), cache, {}, "run-1")
    wait(kube, first)
    second = ensure_job(kube, load_spec(), cache, {}, "run-2")
    assert (second.adopted, second.uid == first.uid) == (False, False)
    remove_job(kube, first)  # the first run's hand does not reach the second's Job
    assert wait(kube, second) == RESULT


def test_other_content_is_refused_while_it_loads_and_replaced_if_it_never_began(kube: Kube, cache: CacheSpec, script: Script) -> None:
    build = script(RUNS_ON)
    kube.create(build(load_spec(digest="sha256:0b"), cache, run_id="killed", secret_keys=KEYS.keys()))
    handle = ensure_job(kube, load_spec(digest="sha256:0c"), cache, {}, "run-1")
    assert not handle.adopted
    words = rf"Job/{cache.namespace}/{handle.name} is at work .* cancel flow run run-1, or `kubectl -n \S+ delete job {handle.name}`"
    with pytest.raises(VersionConflict, match=words):
        ensure_job(kube, load_spec(digest="sha256:0d"), cache, {}, "run-2")


def test_a_job_of_another_is_left_alone(kube: Kube, cache: CacheSpec, script: Script) -> None:
    foreign = script(RUNS_ON)(load_spec(), cache, run_id="run-1")
    foreign["metadata"]["labels"] = {"made-by": "hand"}
    kube.create(foreign)
    with pytest.raises(ClusterRefused, match="was not made by Modelyard"):
        ensure_job(kube, load_spec(), cache, {}, "run-1")


def test_a_permanent_error_of_the_loader_ends_the_job_at_its_first_pod(kube: Kube, cache: CacheSpec, script: Script) -> None:
    error = NotEnoughSpace("claim cache: 3 TiB are missing")
    script(f"{says(error.to_data())}; exit 1")
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    with pytest.raises(NotEnoughSpace, match="3 TiB are missing"):
        wait(kube, handle)
    assert len(kube.list("Pod", cache.namespace, label_selector=f"job-name={handle.name}")) == 1


def test_no_report_is_told_with_exit_code_and_log(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script("echo ImportError: boto3 >&2; exit 1")
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    with pytest.raises(LoaderFailed, match=r"ended with exit code 1; end of its log: ImportError: boto3"):
        wait(kube, handle)


def test_a_deleted_job_interrupts_the_wait(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(RUNS_ON)
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    threading.Timer(3, end_jobs_of_run, (kube, cache.namespace, "run-1")).start()
    with pytest.raises(LoaderInterrupted, match="was deleted while it ran"):
        wait(kube, handle)


def test_the_limit_is_named(kube: Kube, cache: CacheSpec, script: Script) -> None:
    line = json.dumps({"event": "progress", **PROGRESS.model_dump()})
    script(f"echo '{line}'; {RUNS_ON}")
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1", deadline=timedelta(minutes=9))
    job = kube.get("Job", handle.name, handle.namespace)
    assert job
    assert job["spec"]["activeDeadlineSeconds"] == 540

    def over(_: Progress) -> None:  # only now, for nobody knows how long a pod takes to begin
        kube.patch_merge("Job", handle.name, handle.namespace, {"spec": {"activeDeadlineSeconds": 1}})

    with pytest.raises(LoaderFailed, match=r"was stopped at its limit of 1s with 10 B of 30 B"):
        wait(kube, handle, on_progress=over)


def test_a_pod_killed_from_outside_is_followed_by_another(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(f"test -f $MODELYARD_ROOT/again && {{ {SUCCEEDS}; exit; }}; touch $MODELYARD_ROOT/again; {RUNS_ON}")
    handle, root = ensure_job(kube, load_spec(), cache, {}, "run-1"), directory(kube, cache)

    def kill() -> None:
        wait_until((root / "again").exists)  # the second pod goes by it
        for each in kube.list("Pod", cache.namespace, label_selector=f"job-name={handle.name}"):
            kube.delete("Pod", each["metadata"]["name"], cache.namespace)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        assert wait(kube, handle) == RESULT
        killed.result()


def test_an_image_that_is_not_there_is_noted_and_ends_the_wait(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(RUNS_ON)
    broken = cache.model_copy(update={"loader_image": "loader:nowhere"})
    handle = ensure_job(kube, load_spec(), broken, KEYS, "run-1")
    notes: list[str] = []
    with pytest.raises(Stuck, match=r"does not start: image loader:nowhere cannot be pulled: \w+: .*loader:nowhere"):
        wait(kube, handle, on_note=notes.append, patience=8)
    assert [note for note in notes if "cannot be pulled" in note][1:] == []
    until_gone(kube, "Job", handle.name, cache.namespace)


def test_pod_security_is_told_in_its_own_words(kube: Kube, cache: CacheSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_root(*args: Any, **options: Any) -> Manifest:
        job = loader_job(*args, **options)
        job["spec"]["template"]["spec"]["securityContext"] = {}
        return job

    monkeypatch.setattr(run_loader, "loader_job", as_root)
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    with pytest.raises(Stuck, match=r"the namespace's Pod Security level refuses the pod: .*runAsNonRoot != true"):
        wait(kube, handle, patience=3)


def test_a_quota_without_room_is_noted(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(SUCCEEDS)
    quota = {"metadata": {"name": "q", "namespace": cache.namespace}, "spec": {"hard": {"pods": "0"}}}
    apply(kube, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    until_refused(kube, pod(loader_job(load_spec(), cache, run_id="run-1")["spec"]["template"]["spec"], cache.namespace), "exceeded quota")
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    noted = threading.Event()
    notes: list[str] = []

    def on_note(note: str) -> None:
        notes.append(note)
        kube.delete("ResourceQuota", "q", cache.namespace)
        noted.set()

    assert wait(kube, handle, on_note=on_note) == RESULT
    assert "the namespace's ResourceQuota leaves no room for the pod" in notes[0]


def test_out_of_memory_is_permanent_and_names_the_setting(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script("exec tail /dev/zero", backoffLimit=0)
    small = cache.model_copy(update={"loader_resources": LoaderResources(memory_request="16Mi", memory_limit="16Mi")})
    handle = ensure_job(kube, load_spec(), small, {}, "run-1")
    with pytest.raises(LoaderFailed, match=r"\(OOMKilled\): memory limit 16Mi; raise loaderMemoryLimit"):
        wait(kube, handle)


class _Seen(Exception):
    """Ends a wait as soon as a test has seen what it waited for."""


def test_no_node_is_a_note_until_the_time_is_over_and_the_job_stays(kube: Kube, cache: CacheSpec, script: Script) -> None:
    script(SUCCEEDS)
    handle = ensure_job(kube, load_spec(), cache.model_copy(update={"node_selector": {"disk": "nowhere"}}), {}, "run-1")

    def on_note(note: str) -> None:
        if "Unschedulable" in note and "didn't match Pod's node affinity/selector" in note:
            raise _Seen

    with pytest.raises(_Seen):
        wait_for_job(kube, handle, LoadResult, ignore, timeout=120, on_note=on_note, patience=1)
    with pytest.raises(TimedOut, match=rf"waited 3 s for Job/{cache.namespace}/{handle.name}; last seen: active 1"):
        wait_for_job(kube, handle, LoadResult, ignore, timeout=3)
    assert kube.get("Job", handle.name, cache.namespace)


def test_a_claim_that_waits_for_its_first_pod_is_bound_by_the_loader(kube: Kube, namespace: str, script: Script) -> None:
    late = cache_spec(namespace, storage_class_name="devcluster-limited", storage_size=2**25)
    plan = ClaimPlan(ClaimAction.CREATE, namespace, late.claim, "devcluster-limited", AccessMode.READ_WRITE_MANY, late.storage_size)
    kube.create(claim_manifest(late, plan))
    script(f"touch $MODELYARD_ROOT/f || exit 9; {SUCCEEDS}")
    assert wait(kube, ensure_job(kube, load_spec(), late, {}, "run-1")) == RESULT


@pytest.mark.kills_components
def test_the_wait_survives_a_killed_api_server(kube: Kube, cache: CacheSpec, script: Script, cluster: Cluster | None) -> None:
    if cluster is None:
        pytest.skip("the cluster is not ours to break")
    script(f"sleep 8; {SUCCEEDS}")
    handle = ensure_job(kube, load_spec(), cache, {}, "run-1")
    threading.Timer(3, lambda: os.kill(cluster.pid_of("kube-apiserver"), signal.SIGKILL)).start()
    assert wait(kube, handle) == RESULT
