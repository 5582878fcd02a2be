"""The blocks against a real Prefect server: what comes back from a load, and what the API shows of secrets."""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field, SecretStr

from blocks import Cluster, ModelCache, OciRegistry, S3Source, SigningKey, load_block
from modelyard.errors import Refused
from modelyard.oci.access import Access
from modelyard.oci.access import Credentials as RegistryCredentials
from modelyard.oci.ecr import EcrCredentials

Credentials = AwsCredentials | MinIOCredentials
ROOT = Path(__file__).parents[2]
KUBECONFIG = """
contexts: [{name: only, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
users: [{name: u, user: {token: kubeconfig-token}}]
"""


@pytest.mark.parametrize("block", [Cluster, ModelCache, OciRegistry, S3Source, SigningKey])
class TestStandards(BlockStandardTestSuite):
    """Prefect's own suite."""

    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        kind: type[Block] = request.param
        return kind

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own fetches the logo from the internet; here it is only seen that there is one, by https."""
        assert str(block._logo_url).startswith("https://")


def test_a_cluster_comes_back_as_saved(prefect_server: str) -> None:
    saved = Cluster(kubeconfig=SecretStr(KUBECONFIG), context="only")
    saved.save("away")
    loaded = load_block(Cluster, "away")
    assert loaded == saved
    assert loaded.get_client().configuration.host == "https://10.0.0.1:6443"
    assert "kubeconfig-token" not in api_text(prefect_server)


def test_a_cache_comes_back_as_saved_under_the_names_of_the_helm_values(prefect_server: str) -> None:
    saved = ModelCache(storage_size="300Gi", storage_class_name="nfs-client", loader_image="loader:1", node_selector={"disk": "ssd"})
    saved.save("models")
    assert block_data(prefect_server, "models")["storageClassName"] == "nfs-client"
    loaded = load_block(ModelCache, "models")
    assert loaded == saved
    assert loaded.spec().name == "models", "the block's own name is the cache's"
    assert load_block(ModelCache, "models").model_copy(update={"cache_name": "other"}).spec().name == "other"


def test_a_registry_comes_back_as_saved(prefect_server: str) -> None:
    config = json.dumps({"auths": {"other.example": {"username": "me", "password": "config-secret"}}})
    saved = OciRegistry(host="r.example:5000", username="me", password=SecretStr("registry-secret"), docker_config=SecretStr(config))
    saved.save("images")
    keychain = load_block(OciRegistry, "images").keychain()
    assert keychain == saved.keychain()
    assert keychain.main == Access("r.example:5000", credentials=RegistryCredentials("me", "registry-secret"))
    shown = api_text(prefect_server)
    assert "registry-secret" not in shown
    assert "config-secret" not in shown


def test_a_registry_that_goes_on_with_uploads_is_one_that_was_said_to(prefect_server: str) -> None:
    assert prefect_server
    for host in ("r.example", "docker.io", "quay.io", "harbor.example", "acme.jfrog.io", "registry.gitlab.com"):
        assert not OciRegistry(host=host).keychain().main.resume_uploads, host
    OciRegistry(host="r.example", resume_uploads=True).save("going-on")
    assert load_block(OciRegistry, "going-on").keychain().main.resume_uploads
    with pytest.raises(ValueError, match=r"resume_uploads is set, and at ghcr.io a broken upload is known not to go on; unset it"):
        OciRegistry(host="ghcr.io", resume_uploads=True)


def test_a_registry_of_ecr_asks_for_its_passwords(prefect_server: str) -> None:
    """Nothing is asked of AWS here. What a docker config says of the host goes before."""
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    keys = AwsCredentials(aws_access_key_id="AKIA", aws_secret_access_key=SecretStr("aws-secret"), aws_session_token="session-secret")
    saved = OciRegistry(host=host, aws_credentials=keys)
    saved.save("ecr")
    loaded = load_block(OciRegistry, "ecr")
    assert isinstance(loaded.keychain().main.credentials, EcrCredentials)
    assert loaded.aws_credentials
    assert loaded.aws_credentials.aws_session_token == "session-secret"
    assert "aws-secret" not in api_text(prefect_server)
    assert "session-secret" not in repr(saved) + str(saved.model_dump(mode="json"))
    told = SecretStr(json.dumps({"auths": {host: {"username": "me", "password": "p"}}}))
    assert OciRegistry(host=host, docker_config=told).keychain().main.credentials == RegistryCredentials("me", "p")


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "https://r.example"},
        {"host": "r.example", "username": "me"},
        {"host": "r.example", "password": SecretStr("s3cret")},
        {"host": "r.example", "docker_config": SecretStr('{"auths": "s3cret"}')},
        {"host": "r.example", "ca_certificate": "no certificate"},
        {"host": "r.example", "aws_credentials": AwsCredentials(aws_access_key_id="AKIA", aws_secret_access_key=SecretStr("s3cret"))},
    ],
)
def test_registries_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"host|belong together|docker config|certificate") as caught:
        OciRegistry(**fields)
    assert "s3cret" not in str(caught.value)


def test_a_changed_cache_replaces_the_saved_one(prefect_server: str) -> None:
    ModelCache(storage_size="300Gi", loader_image="loader:1").save("changing")
    loaded = load_block(ModelCache, "changing")
    loaded.pvc_name_suffix = "v2"
    loaded.save(overwrite=True)
    assert load_block(ModelCache, "changing").spec().claim == "modelyard-models-cache-v2"
    assert "pvc_name_suffix" not in block_data(prefect_server, "changing"), "one name for each setting"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: MinIOCredentials(minio_root_user="root", minio_root_password=SecretStr("minio-secret")), id="minio"),
        pytest.param(lambda: AwsCredentials(aws_access_key_id="AKIA", aws_secret_access_key=SecretStr("aws-secret")), id="aws"),
        pytest.param(lambda: AwsCredentials(region_name="eu-central-1"), id="aws-without-keys"),
    ],
)
@pytest.mark.parametrize("nested", ["inline", "by-reference"])
def test_a_source_comes_back_with_its_credentials(
    prefect_server: str, make: Callable[[], Credentials], nested: str, request: pytest.FixtureRequest
) -> None:
    name = "source-" + re.sub(r"[^a-z0-9]+", "-", request.node.callspec.id)
    credentials = make()
    if nested == "by-reference":
        credentials.save(name)
    saved = S3Source(bucket="models", endpoint_url="https://minio:9000", credentials=credentials)
    saved.save(name)
    loaded = load_block(S3Source, name)
    assert type(loaded.credentials) is type(credentials)
    assert loaded.location("llama") == saved.location("llama")
    assert loaded.secret_data() == saved.secret_data()
    shown = api_text(prefect_server)
    assert "minio-secret" not in shown
    assert "aws-secret" not in shown


def test_a_document_from_before_a_new_optional_field_still_loads(prefect_server: str) -> None:
    assert prefect_server
    older: list[Block] = [Cluster(in_cluster=True), S3Source(bucket="models"), ModelCache(storage_size="1Gi")]
    for block in older:
        block.save("older")
        later = type(
            type(block).__name__ + "Later",
            (type(block),),
            {
                "__module__": __name__,
                "_block_type_slug": type(block)._block_type_slug,
                "__annotations__": {"added_later": str | None},
                "added_later": Field(default=None, description="New."),
            },
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: Any = load_block(later, "older")
        assert loaded.added_later is None


def test_a_block_that_is_not_there_says_how_to_make_it(prefect_server: str) -> None:
    assert prefect_server
    with pytest.raises(Refused, match=r"there is no block modelyard-model-cache/absent; create it in the Prefect UI"):
        load_block(ModelCache, "absent")


def test_the_command_registers_all_three(prefect_server: str) -> None:
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    slugs = {kind["slug"] for kind in post(prefect_server, "block_types/filter")}
    assert {"modelyard-cluster", "modelyard-s3-source", "modelyard-model-cache"} <= slugs


def test_the_command_line_saves_helm_values(prefect_server: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("modelsCacheStorage: {enabled: true, storageSize: 300Gi}\nreplicas: 3\n")
    command = [sys.executable, "-m", "blocks.helm_values", str(values), "--save", "from-values", "--loader-image", "loader:1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert block_data(prefect_server, "from-values")["storageSize"] == "300Gi"
    assert load_block(ModelCache, "from-values").spec().storage_size == 300 * 2**30


def post(url: str, path: str, offset: int = 0) -> Any:
    return httpx.post(f"{url}/{path}", json={"offset": offset}, timeout=30).raise_for_status().json()


def documents(url: str) -> list[dict[str, Any]]:
    """All block documents: a page holds 200, and the tests before these on the same server may have saved as many."""
    found: list[dict[str, Any]] = []
    while page := post(url, "block_documents/filter", len(found)):
        found += page
    return found


def api_text(url: str) -> str:
    """Everything that the API shows of all block documents."""
    return json.dumps(documents(url))


def block_data(url: str, name: str) -> dict[str, Any]:
    found = [document["data"] for document in documents(url) if document["name"] == name]
    assert len(found) == 1
    data: dict[str, Any] = found[0]
    return data
