"""The flows against a real Prefect server: an image built and signed before its tag names it, verified, and no secret told anywhere."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from prefect_aws import MinIOCredentials
from pydantic import SecretStr, ValidationError

from blocks import Cluster, ModelCache, OciRegistry, S3Source, SigningKey, load_block
from flows.model_sources import model_source
from flows.modelcar import build_modelcar
from flows.prepull import prepull_image
from flows.serve_modelcar import serve_modelcar
from flows.signing import demand_signature, trust_of
from flows.verify_image import verify_image
from modelyard.errors import ClusterRefused, Refused
from modelyard.images.references import Reference
from modelyard.oci.environment import VOUCHER_VARIABLE
from modelyard.signing.trust import Trust
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import _ACCESS_KEY, SECRET_KEY, Bucket
from tests.services.signing.conftest import PASSWORD, KeyPair
from tests.services.signing.oracles import cosign

KUBECONFIG = """
contexts: [{name: only, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
"""


@pytest.fixture
def name(prefect_server: str, bucket: Bucket, registry_3: Registry, keys: KeyPair) -> str:
    """Of blocks of this test: a source, a registry that trusts the key, and the key."""
    assert prefect_server
    name = f"signed-{secrets.token_hex(4)}"
    access = MinIOCredentials(minio_root_user=_ACCESS_KEY, minio_root_password=SecretStr(SECRET_KEY))
    authority = Path(bucket.server.certificates.ca).read_text()
    S3Source(bucket=bucket.name, endpoint_url=bucket.server.url, ca_certificate=authority, credentials=access).save(name)
    OciRegistry(host=registry_3.host, plain_http=True, trusted_keys=keys.public).save(name)
    SigningKey(private_key=SecretStr(keys.private), password=SecretStr(PASSWORD)).save(name)
    return name


def test_built_signed_and_verified(
    name: str, prefect_server: str, bucket: Bucket, registry_3: Registry, keys: KeyPair, other_keys: KeyPair
) -> None:
    bucket.put({"config.json": b"{}", "model.safetensors": b"weights"})
    repository = f"models/{secrets.token_hex(4)}"
    told: dict[str, Any] = {"model": "m", "path": "m/v1", "repository": repository, "source": name, "registry": name, "base": "none"}
    unsigned = build_modelcar(**told, tag="unsigned", platforms=["linux/amd64"])
    assert unsigned.image
    assert unsigned.image.signed_by is None
    block = load_block(OciRegistry, name)
    with pytest.raises(Refused, match="is not signed; build it with a signing key"):
        demand_signature(Reference.parse(unsigned.image.image), block)

    report = build_modelcar(**told, signing_key=name, previous=unsigned.image.image)
    assert report.image
    assert report.reused == 0, "nobody vouches for the layers that are there"
    assert report.image.signed_by == keys.key.public.hint
    image = f"{registry_3.host}/{repository}:v1"
    assert str(demand_signature(Reference.parse(image), block)) == report.image.image
    assert cosign(image, keys.public) == 2
    again = build_modelcar(**told, signing_key=name)
    assert (again.image, again.new, again.read_bytes) == (report.image, 0, 0), "all of it is there, and left as it is"

    verified = verify_image(image, name)
    assert (verified.image, verified.files, verified.provenance, verified.read) == (report.image.image, 2, True, False)
    assert verify_image(image, name, keys.public, read_layers=True).read
    with pytest.raises(Refused, match="signed, but not by a trusted key"):
        verify_image(image, name, other_keys.public)
    assert PASSWORD not in everything(prefect_server)


def test_what_is_not_signed_is_neither_served_nor_pulled_nor_loaded(name: str, bucket: Bucket, registry_3: Registry) -> None:
    """Before anything is asked of a cluster: there is none here."""
    bucket.put({"config.json": b"{}"})
    repository = f"models/{secrets.token_hex(4)}"
    build_modelcar("m", "m/v1", repository, source=name, registry=name, base="none", platforms=["linux/amd64"])
    Cluster(kubeconfig=SecretStr(KUBECONFIG)).save(name)
    image = f"{registry_3.host}/{repository}:v1"
    with pytest.raises(Refused, match="is not signed; build it with a signing key"):
        serve_modelcar("m", "models", image, "sklearn", registry=name, cluster=name)
    with pytest.raises(Refused, match="is not signed; build it with a signing key"):
        prepull_image(image, "models", registry=name, cluster=name)
    with pytest.raises(Refused, match="is not signed; build it with a signing key"):
        model_source(name, f"oci://{image}")


def test_what_is_pulled_is_what_was_verified(name: str, bucket: Bucket, registry_3: Registry) -> None:
    """By its digest, whatever the tag names a moment later: seen in the first Job that a cluster is asked about."""
    bucket.put({"config.json": b"{}"})
    repository = f"models/{secrets.token_hex(4)}"
    built = build_modelcar("m", "m/v1", repository, source=name, registry=name, base="none", platforms=["linux/amd64"], signing_key=name)
    assert built.image
    image = f"{registry_3.host}/{repository}:v1"
    with refusing_cluster() as (url, asked):
        Cluster(kubeconfig=SecretStr(KUBECONFIG.replace("https://127.0.0.1:9", url))).save(name)
        with pytest.raises(ClusterRefused):
            prepull_image(image, "models", registry=name, cluster=name)
    pulled = {volume["image"]["reference"] for job in asked for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert pulled == {built.image.image}
    assert built.image.image.startswith(f"{image}@sha256:")


def test_a_job_has_a_secret_of_the_keys_and_not_the_key(name: str, bucket: Bucket, keys: KeyPair, other_keys: KeyPair) -> None:
    """With it, it goes on with what a Job before it finished."""
    bucket.put({"config.json": b"{}"})
    ModelCache(storage_size="1Gi", loader_image="r.example/loader:1").save(name)
    with refusing_cluster() as (url, asked):
        Cluster(kubeconfig=SecretStr(KUBECONFIG.replace("https://127.0.0.1:9", url))).save(name)
        for key in (name, ""):
            with pytest.raises(ClusterRefused):
                build_modelcar("m", "m/v1", "m", source=name, registry=name, base="none", cache=name, cluster=name, signing_key=key)
    signed, unsigned = (
        {each["name"] for each in job["spec"]["template"]["spec"]["containers"][0]["env"] if "valueFrom" in each} for job in asked
    )
    assert signed - unsigned == {VOUCHER_VARIABLE}
    images = [Reference(host="r.example", repository="m", tag=tag) for tag in ("v1", "v2")]
    found = [Trust((pair.key.public,), pair.key).record_secret(image) for pair in (keys, other_keys) for image in images]
    assert len({*found}) == len(found)
    assert Trust((keys.key.public,), keys.key).record_secret(images[0]) == found[0], "each run makes the same"
    assert Trust((keys.key.public,)).record_secret(images[0]) is None


@contextmanager
def refusing_cluster() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a cluster that grants nothing, and what it is asked to make."""
    asked: list[dict[str, Any]] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"}).encode()
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("signed", [True, False], ids=["a key", "a registry that demands signatures"])
def test_what_lies_on_a_claim_is_not_signed(signed: bool, name: str, registry_3: Registry) -> None:  # noqa: FBT001
    """Whoever may write there could have other files signed as the bucket's; nothing is asked of the cluster, which is none."""
    Cluster(kubeconfig=SecretStr(KUBECONFIG)).save(name)
    cache = ModelCache(storage_size="1Gi", loader_image="r.example/loader:1")
    cache.save(name)
    free = f"{name}-all"
    OciRegistry(host=registry_3.host, plain_http=True).save(free)
    told: dict[str, Any] = {"registry": free, "signing_key": name} if signed else {"registry": name}
    path = f"pvc://{cache.spec().claim}/m/v1"
    with pytest.raises(Refused, match=r"is on a claim, whose files nobody vouches for.*build from the bucket"):
        build_modelcar("m", path, "models/claimed", cache=name, cluster=name, base="none", **told)


def test_without_trusted_keys_nothing_is_demanded(name: str, registry_3: Registry) -> None:
    block = OciRegistry(host=registry_3.host, plain_http=True)
    image = Reference(host=registry_3.host, repository="models/none", tag="v1")
    assert demand_signature(image, block) == image
    block.save(f"{name}-all")
    with pytest.raises(Refused, match="has no trusted keys"):
        verify_image(str(image), f"{name}-all")
    with pytest.raises(Refused, match="holds no public key"):
        verify_image(str(image), name, "not a key")
    with pytest.raises(Refused, match="names no registry"):
        verify_image("models/none", name)


def test_a_key_is_opened_when_it_is_entered(keys: KeyPair, other_keys: KeyPair) -> None:
    with pytest.raises(ValidationError, match="holds no private key") as caught:
        SigningKey(private_key=SecretStr(keys.private), password=SecretStr("wr0ng"))
    block = SigningKey(private_key=SecretStr(keys.private), password=SecretStr(PASSWORD))
    with pytest.raises(Refused, match="is none of those that the block of"):
        trust_of(OciRegistry(host="r.example", trusted_keys=other_keys.public), block)
    assert trust_of(OciRegistry(host="r.example", trusted_keys=other_keys.public + keys.public), block)
    assert trust_of(OciRegistry(host="r.example"), block)
    assert trust_of(OciRegistry(host="r.example"), None) is None
    shown = f"{caught.value}{block!r}{block}{block.key()!r}{block.model_dump_json()}"
    assert not [secret for secret in (PASSWORD, "wr0ng", keys.private.split("\n")[1]) if secret in shown]


def everything(url: str) -> str:
    """All that the server tells of logs, artifacts, parameters and blocks."""
    paths = ("logs", "artifacts", "flow_runs", "task_runs", "block_documents")
    return "".join(httpx.post(f"{url}/{path}/filter", json={}, timeout=30).raise_for_status().text for path in paths)
