"""Serving a modelcar: what is refused, with its reason, and what is only noted."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from modelyard.errors import Refused
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.plans.model_image import ImageFacts, ImageFile
from modelyard.plans.nodes import NodeFacts
from modelyard.plans.serving import Mode, PullSecret, ServeFacts, ServePlan, ServeRequest, plan_serving
from modelyard.serving.service import hosts_of

DIGEST = f"sha256:{'a' * 64}"
FILES = (ImageFile(path="config.json", size=2), ImageFile(path="sub/model.safetensors", size=7))
IMAGE = ImageFacts(
    digest=DIGEST, digests=(DIGEST,), platforms=(Platform(architecture="amd64"),), bytes=4096, files=FILES, lacks=(), public=True
)
AMD = NodeFacts("amd", labels={"kubernetes.io/arch": "amd64"})
ARM = NodeFacts("arm", labels={"kubernetes.io/arch": "arm64", "pool": "arm"})
FACTS = ServeFacts(image=IMAGE, section={"enableModelcar": True}, account_exists=True, nodes=(AMD, ARM))


def request(image: str = "registry.example/m:v1", mode: Mode = Mode.MODELCAR, **more: Any) -> ServeRequest:
    told: dict[str, Any] = {"name": "llama", "namespace": "team", "model_format": "sklearn"} | more
    return ServeRequest(image=Reference.parse(image), mode=mode, **told)


def test_the_service() -> None:
    plan = plan_serving(request(runtime="own", resources={"cpu": "1"}, pull_secrets=("pull",)), FACTS)
    assert plan.approved() == IMAGE
    assert plan.manifest["spec"]["predictor"] == {
        "minReplicas": 1,
        "model": {
            "modelFormat": {"name": "sklearn"},
            "storageUri": "oci://registry.example/m:v1",
            "runtime": "own",
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        },
        "imagePullSecrets": [{"name": "pull"}],
    }


@pytest.mark.parametrize(
    ("image", "mode", "uri"),
    [
        (f"registry.example/m@{DIGEST}", Mode.MODELCAR, f"oci://registry.example/m@{DIGEST}"),
        (f"registry.example/m:latest@{DIGEST}", Mode.MODELCAR, f"oci://registry.example/m:latest@{DIGEST}"),
        ("registry.example:5000/m:1.0", Mode.NATIVE, "oci+native://registry.example:5000/m:1.0"),
    ],
)
def test_a_digest_or_a_specific_tag_is_taken(image: str, mode: Mode, uri: str) -> None:
    plan = plan_serving(request(image, mode), FACTS)
    assert plan.problems == ()
    assert plan.manifest["spec"]["predictor"]["model"]["storageUri"] == uri


def live(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "llama", "namespace": "team", **metadata}}


REFUSED = [
    pytest.param(request("registry.example/m"), replace(FACTS, image=None), "no tag makes Kubernetes' pull policy Always", id="no tag"),
    pytest.param(request("registry.example/m:latest"), replace(FACTS, image=None), "the tag latest makes .* Always", id="latest"),
    pytest.param(request(name="Llama_3"), FACTS, "must be 1 to 50 lower-case letters", id="a name that KServe does not take"),
    pytest.param(request(), replace(FACTS, image=None), "is not in the registry", id="no image"),
    pytest.param(
        request(),
        replace(FACTS, image=IMAGE.model_copy(update={"lacks": ("sh", "ln")})),
        "has no sh, ln, which a modelcar runs",
        id="no shell",
    ),
    pytest.param(
        request(node_selector={"pool": "arm"}), FACTS, "is for linux/amd64, which none of the nodes is", id="no node of its platform"
    ),
    pytest.param(request(), replace(FACTS, section={}), "run enable-modelcars first", id="disabled"),
    pytest.param(request(mode=Mode.NATIVE), replace(FACTS, section={}), "run enable-modelcars first", id="disabled, for native too"),
    pytest.param(
        request(), replace(FACTS, section={"ociModelMode": "native"}), r"takes oci:// for native here", id="oci:// means something else"
    ),
    pytest.param(
        request(service_account="x"), replace(FACTS, account_exists=False), "ServiceAccount/team/x: is not there", id="no account"
    ),
    pytest.param(request(), replace(FACTS, live=live()), "was not made by Modelyard, so it is not changed", id="the service of others"),
    pytest.param(
        request(), replace(FACTS, live=live(deletionTimestamp="x"), live_is_ours=True), "is being deleted", id="one that is going"
    ),
]


@pytest.mark.parametrize(("wanted", "facts", "words"), REFUSED)
def test_refused(wanted: ServeRequest, facts: ServeFacts, words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan_serving(wanted, facts).approved()


def test_all_that_stands_against_it_is_told_at_once() -> None:
    facts = replace(FACTS, image=None, section={}, account_exists=False)
    assert len(plan_serving(request("registry.example/m:latest", name="L"), facts).problems) == 4


def test_a_native_image_needs_no_shell() -> None:
    facts = replace(FACTS, image=IMAGE.model_copy(update={"lacks": ("sh",)}))
    assert plan_serving(request(mode=Mode.NATIVE), facts).problems == ()


PRIVATE = replace(FACTS, image=IMAGE.model_copy(update={"public": False}))
OTHER = PullSecret("hub", ("docker.io",))


@pytest.mark.parametrize(
    ("wanted", "secrets", "problem", "note"),
    [
        pytest.param(request(), (), "has no pull secret, and registry.example asks for one", None, id="none"),
        pytest.param(request(), (OTHER,), r"has pull secrets \(hub\), and none for registry.example", None, id="of another registry"),
        pytest.param(request(), (OTHER, PullSecret("ours", ("registry.example",))), None, None, id="one covers it"),
        pytest.param(request(), (OTHER, PullSecret("ours")), None, "whether ours has credentials", id="one may not be read"),
        pytest.param(request("docker.io/o/m:v1"), (PullSecret("login", ("index.docker.io",)),), None, None, id="as docker login writes it"),
        pytest.param(request("docker.io/o/m:v1"), (OTHER,), None, None, id="of Docker Hub"),
        pytest.param(request("a.azurecr.io/m:v1"), (PullSecret("glob", ("*.azurecr.io",)),), None, None, id="a pattern"),
        pytest.param(
            request("r.a.example:5000/m:v1"), (PullSecret("glob", ("*.a.example:5000",)),), None, None, id="a pattern with a port"
        ),
        pytest.param(
            request("r.a.example/m:v1"),
            (PullSecret("glob", ("*.example",)),),
            "and none for r.a.example",
            None,
            id="a pattern of fewer parts",
        ),
        pytest.param(request(nodes_have_credentials=True), (), None, None, id="the nodes have credentials"),
        pytest.param(request("1.dkr.ecr.eu-west-1.amazonaws.com/m:v1"), (), None, "credentials of their cloud", id="a cloud's registry"),
    ],
)
def test_pull_secrets(wanted: ServeRequest, secrets: tuple[PullSecret, ...], problem: str | None, note: str | None) -> None:
    plan: ServePlan = plan_serving(wanted, replace(PRIVATE, pull_secrets=secrets))
    if problem:
        with pytest.raises(Refused, match=problem):
            plan.approved()
    else:
        assert plan.problems == ()
    assert [note for each in plan.notes if note and note in each] == ([note] if note else [])


def encoded(config: object) -> str:
    return base64.b64encode(json.dumps(config).encode()).decode()


AUTHS = {"https://index.docker.io/v1/": {"username": "u", "password": "p"}, "*.azurecr.io": {"auth": "dTpw"}}


@pytest.mark.parametrize(
    ("data", "hosts"),
    [
        pytest.param({".dockerconfigjson": encoded({"auths": AUTHS})}, ("*.azurecr.io", "index.docker.io"), id="credentials"),
        pytest.param({".dockercfg": encoded(AUTHS)}, None, id="the older kind"),
        pytest.param({".dockerconfigjson": encoded([])}, None, id="not made out"),
        pytest.param({".dockerconfigjson": "%%%"}, None, id="not Base64"),
        pytest.param({"other": ""}, (), id="no pull secret"),
    ],
)
def test_registries_of_a_pull_secret(data: dict[str, str], hosts: tuple[str, ...] | None) -> None:
    assert hosts_of({"data": data}) == hosts


def test_a_service_account_that_may_not_be_read_is_told_of() -> None:
    plan = plan_serving(request(), replace(PRIVATE, account_exists=None))
    assert plan.problems == ()
    assert "may not read their service account" in " ".join(plan.notes)
