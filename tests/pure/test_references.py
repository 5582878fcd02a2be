"""What objects say of the claims that they use, by table: every kind, and how a mount is narrowed to versions."""

from typing import Any

import pytest

from modelyard.plans.references import WHOLE, References, Use, used_paths, uses_in
from modelyard.plans.same_volume import Nesting

CLAIMS = {"ns": frozenset({"cache"})}


def pod_spec(*sub_paths: str, claim: str = "cache", **mount: Any) -> dict[str, Any]:
    mounts = [{"name": "m", "mountPath": f"/{i}", "subPath": path, **mount} for i, path in enumerate(sub_paths)]
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": claim}}, {"name": "e", "emptyDir": {}}]
    return {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]}


def an_object(kind: str, spec: dict[str, Any], name: str = "w", **metadata: Any) -> dict[str, Any]:
    head = {"name": name, "namespace": "ns", "uid": f"{kind}-{name}", **metadata}
    return {"kind": kind, "metadata": head, "spec": spec}


def template(spec: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {"template": {"metadata": {"annotations": annotations}, "spec": spec}}


def predictor(**model: Any) -> dict[str, Any]:
    return {"predictor": {"model": model}}


@pytest.mark.parametrize(
    ("manifest", "paths"),
    [
        pytest.param(an_object("Pod", pod_spec("")), {WHOLE}, id="a pod mounts the whole"),
        pytest.param(an_object("Pod", pod_spec("llama/v1/")), {"llama/v1"}, id="one version by subPath"),
        pytest.param(an_object("Pod", pod_spec("llama", "bert/v2")), {"llama", "bert/v2"}, id="a model, and a version of another"),
        pytest.param(an_object("Pod", pod_spec("llama/v1", subPathExpr="$(M)")), {WHOLE}, id="an expression is not known"),
        pytest.param(an_object("Pod", pod_spec("../x")), {WHOLE}, id="a path that leads up is not trusted"),
        pytest.param(an_object("Pod", pod_spec()), {WHOLE}, id="a volume that nothing mounts"),
        pytest.param(an_object("Pod", pod_spec("", claim="other")), set(), id="another claim"),
        pytest.param(an_object("Deployment", template(pod_spec("a/1"))), {"a/1"}, id="a template"),
        pytest.param(an_object("CronJob", {"jobTemplate": {"spec": template(pod_spec("a/1"))}}), {"a/1"}, id="a template in a template"),
        pytest.param(
            an_object("Deployment", template(pod_spec(""), **{"modelyard.dev/models": "a@v1, b@v2"})), {"a/v1", "b/v2"}, id="annotated"
        ),
        pytest.param(
            an_object("Deployment", template(pod_spec(""), **{"modelyard.dev/models": "a@v1, /etc"})), {WHOLE}, id="ill annotated"
        ),
        pytest.param(
            an_object("Pod", pod_spec("c/v3"), annotations={"modelyard.dev/models": "a@v1"}), {"c/v3"}, id="a subPath says it already"
        ),
        pytest.param(an_object("InferenceService", predictor(storageUri="pvc://cache/llama/v1")), {"llama/v1"}, id="storageUri"),
        pytest.param(an_object("InferenceService", predictor(storageUri="pvc://cache")), {WHOLE}, id="storageUri of the whole"),
        pytest.param(
            an_object("InferenceService", predictor(storageUris=[{"uri": "pvc://cache/a/1"}, {"uri": "s3://cache/b"}])),
            {"a/1"},
            id="several",
        ),
        pytest.param(an_object("InferenceService", predictor(storageUri="pvc://cache-2/a/1")), set(), id="a claim of a longer name"),
        pytest.param(
            an_object(
                "InferenceService",
                {"predictor": {"volumes": pod_spec()["volumes"], "model": {"volumeMounts": [{"name": "m", "subPath": "a/1"}]}}},
            ),
            {"a/1"},
            id="volumes of a predictor",
        ),
        pytest.param(an_object("InferenceService", {"canary": [predictor(storageUri="pvc://cache/a/2")]}), {"a/2"}, id="a canary"),
        pytest.param(
            an_object("MLService", {"releases": [{"predictor": {"storage": {"pvc": {"name": "cache", "subPath": "a/1"}}}}]}),
            {"a/1"},
            id="MLService",
        ),
        pytest.param(
            an_object("KnativeService", template({"containers": [{"args": ["--uri=pvc://cache/a/1,x"]}]})), {"a/1"}, id="an argument"
        ),
        pytest.param(
            an_object("StatefulSet", {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}, name="db"), set(), id="its own claims"
        ),
    ],
)
def test_paths(manifest: dict[str, Any], paths: set[str]) -> None:
    assert used_paths(manifest, {"cache"}) == paths


def test_a_claim_of_a_stateful_set() -> None:
    manifest = an_object("StatefulSet", {"volumeClaimTemplates": [{"metadata": {"name": "cache"}}]}, name="db")
    assert used_paths(manifest, {"cache-db-0"}) == {WHOLE}
    assert used_paths(manifest, {"cache-db-x"}) == frozenset()


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        pytest.param(WHOLE, True, id="whole"),
        pytest.param("llama", True, id="all its versions"),
        pytest.param("llama/v1", True, id="itself"),
        pytest.param("llama/v1/tokenizer", True, id="a part of it"),
        pytest.param("llama/v10", False, id="a longer name"),
        pytest.param("bert", False, id="another"),
    ],
)
def test_covers(path: str, covered: bool) -> None:  # noqa: FBT001
    assert Use("Pod/ns/w", frozenset({path})).covers("llama", "v1") is covered


def owned_by(kind: str, name: str = "w") -> list[dict[str, str]]:
    return [{"uid": f"{kind}-{name}"}]


def test_what_the_owner_says_is_not_told_twice_but_what_differs_is() -> None:
    objects = [
        an_object("Deployment", template(pod_spec("a/2"))),
        an_object("ReplicaSet", {"replicas": 1, **template(pod_spec("a/2"))}, ownerReferences=owned_by("Deployment")),
        an_object("ReplicaSet", {"replicas": 0, **template(pod_spec("a/0"))}, "old", ownerReferences=owned_by("Deployment")),
        an_object("ReplicaSet", {"replicas": 1, **template(pod_spec("a/1"))}, "leaving", ownerReferences=owned_by("Deployment")),
        an_object("ReplicaSet", {"replicas": 0, **template(pod_spec("a/9"))}, "orphan"),
        an_object("Pod", pod_spec("a/2"), ownerReferences=owned_by("ReplicaSet")),
        an_object("Pod", pod_spec("a/1"), "late", ownerReferences=owned_by("ReplicaSet", "leaving")),
    ]
    assert [(use.who, set(use.paths)) for use in uses_in(objects, CLAIMS)] == [
        ("Deployment/ns/w", {"a/2"}),
        ("ReplicaSet/ns/leaving", {"a/1"}),
        ("ReplicaSet/ns/orphan", {"a/9"}),
    ]


def test_who_uses_nothing() -> None:
    loader = {"app.kubernetes.io/managed-by": "modelyard", "app.kubernetes.io/component": "loader"}
    finished = {"conditions": [{"type": "Complete", "status": "True"}]}
    objects = [
        an_object("Pod", pod_spec(""), "ended") | {"status": {"phase": "Succeeded"}},
        an_object("Job", template(pod_spec("")), "done") | {"status": finished},
        an_object("Job", template(pod_spec("")), "loader", labels=loader),
        an_object("Pod", pod_spec(""), "elsewhere", namespace="other"),
    ]
    assert uses_in(objects, CLAIMS) == ()
    assert [use.who for use in uses_in([an_object("Job", template(pod_spec("")), "going")], CLAIMS)] == ["Job/ns/going"]


def test_of_names_each_user_once_in_order() -> None:
    uses = (Use("b", frozenset({"m/1"})), Use("a", frozenset({WHOLE})), Use("c", frozenset({"m/2"})))
    assert References(uses).of("m", "1") == ("a", "b")


def test_a_template_s_annotation_holds_for_its_own_mounts_only() -> None:
    annotated = {"predictor": {"annotations": {"modelyard.dev/models": "llama@v1"}, **pod_spec("")}}
    assert used_paths(an_object("InferenceService", annotated), {"cache"}) == {"llama/v1"}
    beside = {**annotated, "transformer": pod_spec("")}
    assert used_paths(an_object("InferenceService", beside), {"cache"}) == {"llama/v1", WHOLE}
    whole = an_object("InferenceService", beside, annotations={"modelyard.dev/models": "bert@v2"})
    assert used_paths(whole, {"cache"}) == {"llama/v1", "bert/v2"}
    ill = an_object("Deployment", template(pod_spec(""), **{"modelyard.dev/models": "/etc"}), annotations={"modelyard.dev/models": "a@v1"})
    assert used_paths(ill, {"cache"}) == {WHOLE}


@pytest.mark.parametrize(
    ("nesting", "sub_path", "paths"),
    [
        pytest.param(Nesting(below="llama"), "v1", {"llama/v1"}, id="a directory of the cache"),
        pytest.param(Nesting(below="llama"), "", {"llama"}, id="all of a directory of the cache"),
        pytest.param(Nesting(above="models"), "models/llama/v1", {"llama/v1"}, id="the export above the cache"),
        pytest.param(Nesting(above="a/models"), "a", {WHOLE}, id="a directory above the cache"),
        pytest.param(Nesting(above="models"), "models", {WHOLE}, id="the cache in the export above it"),
        pytest.param(Nesting(above="models"), "", {WHOLE}, id="all of the export above"),
        pytest.param(Nesting(above="models"), "models-2/llama/v1", set(), id="beside the cache"),
    ],
)
def test_paths_on_a_volume_around_or_within_the_cache_s(nesting: Nesting, sub_path: str, paths: set[str]) -> None:
    assert used_paths(an_object("Pod", pod_spec(sub_path)), {"cache"}, nesting) == paths


def test_an_annotation_names_models_of_the_cache_on_the_export_above_it_too() -> None:
    pod = an_object("Pod", pod_spec(""), annotations={"modelyard.dev/models": "llama@v1"})
    assert uses_in([pod], CLAIMS, Nesting(above="models")) == (Use("Pod/ns/w", frozenset({"llama/v1"})),)
