"""Pre-pulling: which nodes get the image, which are left out and why, and the Job that holds it on one."""

from typing import Any

import pytest

from modelyard.errors import Refused
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.kube.diagnosis import Diagnosis
from modelyard.plans.model_image import ImageFacts
from modelyard.plans.nodes import NodeFacts, Taint
from modelyard.plans.prepull import Form, PrepullFacts, PrepullRequest, plan_prepull
from modelyard.serving.prepull import holds, is_running, is_stale, of_digest, of_holder, prepull_job

DIGEST = f"sha256:{'a' * 64}"
IMAGE = ImageFacts(digest=DIGEST, digests=(DIGEST,), platforms=(Platform(architecture="amd64"),), bytes=4096, lacks=())
GPU = {"kubernetes.io/arch": "amd64", "pool": "gpu"}
NODES = (
    NodeFacts("a", labels=GPU),
    NodeFacts("arm", labels={**GPU, "kubernetes.io/arch": "arm64"}),
    NodeFacts("b", labels=GPU, taints=(Taint("nvidia.com/gpu"),)),
    NodeFacts("c", labels=GPU, schedulable=False),
    NodeFacts("d", labels=GPU, ready=False),
    NodeFacts("other", labels={"kubernetes.io/arch": "amd64"}),
)
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists"}


def request(image: str = "registry.example/m:v1", **more: Any) -> PrepullRequest:
    told: dict[str, Any] = {"namespace": "team", "node_selector": {"pool": "gpu"}, "holder": "busybox:1", "keep_seconds": 60} | more
    return PrepullRequest(image=Reference.parse(image), **told)


def facts(image: ImageFacts | None = IMAGE, nodes: tuple[NodeFacts, ...] | None = NODES, *, volumes: bool = True) -> PrepullFacts:
    return PrepullFacts(image, nodes, volumes)


def test_nodes_that_can_hold_it_get_it_and_the_others_are_told_of() -> None:
    plan = plan_prepull(request(), facts())
    assert (plan.nodes, plan.problems) == (("a",), ())
    assert plan.notes == (
        "left out: arm is of a platform that the image is not for",
        "left out: b has the taint nvidia.com/gpu, which is not tolerated (tolerations)",
        "left out: c is cordoned",
        "left out: d is not Ready",
    )
    assert plan_prepull(request(tolerations=(TOLERATION,)), facts()).nodes == ("a", "b")


@pytest.mark.parametrize(
    ("wanted", "there", "words"),
    [
        pytest.param(request("registry.example/m"), facts(None), "no tag makes Kubernetes' pull policy Always", id="no tag"),
        pytest.param(request(), facts(None), "is not in the registry", id="no image"),
        pytest.param(request(nodes=("x",)), facts(), "node x: is not there", id="a node that is not there"),
        pytest.param(request(nodes=("c",)), facts(), "node c: is cordoned", id="a node that is named and cannot"),
        pytest.param(request(nodes=("other",)), facts(), "node other: lacks labels", id="a node without the labels"),
        pytest.param(request(node_selector={"pool": "none"}), facts(), "none has these labels", id="no node"),
        pytest.param(request(), facts(nodes=None), "may not be listed", id="no right"),
        pytest.param(
            request(), facts(IMAGE.model_copy(update={"lacks": ("sleep",)}), volumes=False), "no image volumes", id="no way to hold it"
        ),
    ],
)
def test_refused(wanted: PrepullRequest, there: PrepullFacts, words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan_prepull(wanted, there).approved()


@pytest.mark.parametrize(("volumes", "form", "image"), [(True, Form.VOLUME, "busybox:1"), (False, Form.CONTAINER, "registry.example/m:v1")])
def test_what_holds_it(volumes: bool, form: Form, image: str) -> None:  # noqa: FBT001
    plan = plan_prepull(request(), facts(volumes=volumes))
    pod = prepull_job(plan.request, "a", plan.form)["spec"]["template"]["spec"]
    assert (plan.form, pod["containers"][0]["image"]) == (form, image)
    assert [volume["image"]["reference"] for volume in pod["volumes"]] == (["registry.example/m:v1"] if volumes else [])


def test_the_pull_secrets_of_a_service_account_are_used() -> None:
    pods = [prepull_job(each, "a", Form.VOLUME)["spec"]["template"]["spec"] for each in (request(service_account="serving"), request())]
    assert [pod.get("serviceAccountName") for pod in pods] == ["serving", None]
    assert [pod["automountServiceAccountToken"] for pod in pods] == [False, False]


def test_a_tag_is_asked_of_the_registry_and_a_digest_is_not() -> None:
    def policy(image: str) -> str:
        return str(prepull_job(request(image), "a", Form.VOLUME)["spec"]["template"]["spec"]["volumes"][0]["image"]["pullPolicy"])

    assert (policy("registry.example/m:v1"), policy(f"registry.example/m@{DIGEST}")) == ("Always", "IfNotPresent")


def test_each_image_and_node_has_one_job_whatever_the_run() -> None:
    one, other = request(), request(keep_seconds=120, pull_secrets=("pull",))
    assert one.job_name("a") == other.job_name("a")
    names = {request(image).job_name(node) for image in ("r.example/m:v1", "r.example/m:v2", "s.example/m:v1") for node in ("a", "b" * 60)}
    assert len(names) == 6
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(
    ("held", "named", "let_go"),
    [
        ("r.example/m:v1", "r.example/m:v1", True),
        pytest.param(f"r.example/m:v1@{DIGEST}", "r.example/m:v1", True, id="by the digest that was verified"),
        pytest.param(f"r.example/m@{DIGEST}", f"r.example/m@{DIGEST}", True, id="by a digest alone"),
        ("r.example/m:v10", "r.example/m:v1", False),
        pytest.param("r.example/m:v1", f"r.example/m:v1@{DIGEST}", False, id="by its tag, where a digest is let go"),
    ],
)
def test_what_is_let_go(held: str, named: str, let_go: bool) -> None:  # noqa: FBT001
    job = prepull_job(request(held), "a", Form.VOLUME)
    assert holds(job, Reference.parse(named)) is let_go
    assert holds({"metadata": job["spec"]["template"]["metadata"]}, Reference.parse(named)) is let_go


def held_pod(job: dict[str, Any], *running: str, **metadata: Any) -> dict[str, Any]:
    statuses: list[dict[str, Any]] = [
        {"name": name, "state": {"running" if name in running else "waiting": {}}} for name in ("hold", "istio-proxy")
    ]
    return {"metadata": {**job["spec"]["template"]["metadata"], **metadata}, "status": {"containerStatuses": statuses}}


def test_a_job_that_holds_what_the_tag_named_before_is_stale() -> None:
    other = f"sha256:{'b' * 64}"
    now, before = (prepull_job(request(), "a", Form.VOLUME, digest) for digest in (DIGEST, other))
    assert (now["metadata"]["name"], now["spec"]["template"]["spec"]) == (before["metadata"]["name"], before["spec"]["template"]["spec"])
    assert is_stale(before, now, [held_pod(before, "hold")])
    assert not is_stale(now, now, [])
    plan = plan_prepull(request(), facts())
    assert of_digest([held_pod(before, "hold"), held_pod(now)], plan) == [held_pod(now)]


def test_a_job_of_another_shape_will_do_if_its_own_container_runs() -> None:
    wanted, other = (prepull_job(request(pull_secrets=secrets), "a", Form.VOLUME, DIGEST) for secrets in (("pull",), ()))
    assert not is_stale(other, wanted, [held_pod(other, "hold")])
    assert is_stale(other, wanted, [held_pod(other, "istio-proxy")])


def test_a_sidecar_that_runs_does_not_say_that_the_image_is_there() -> None:
    job = prepull_job(request(), "a", Form.VOLUME)
    assert is_running(held_pod(job, "hold"))
    assert not is_running(held_pod(job, "istio-proxy"))
    assert not is_running(held_pod(job, "hold", deletionTimestamp="x"))


def test_an_image_beside_the_models_that_cannot_be_pulled_is_told_apart() -> None:
    missing = Diagnosis("image busybox:1 cannot be pulled", "not found", "check the tag", permanent=True)
    models = Diagnosis("image registry.example/m:v1 cannot be pulled", "not found", "check the tag", permanent=True)
    plan = plan_prepull(request(), facts())
    assert plan.form is Form.VOLUME
    assert "as the holder" in of_holder(missing, plan).next_step
    assert of_holder(models, plan) is models
