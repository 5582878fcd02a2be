"""The README names every deployment, block and command: what is not in it does not exist for a user."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prefect.blocks.core import Block

from blocks import Cluster, ModelCache, OciRegistry, S3Source, SigningKey

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DEPLOYMENTS = [each["name"] for each in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]]
BLOCKS = [Cluster, S3Source, ModelCache, OciRegistry, SigningKey]
KUBECONFIG = """
contexts: [{name: prod, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
"""
INTERNAL = {"help", "setup", "format", "lock", "screenshot"}
TARGETS = [name for name in re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE) if name not in INTERNAL]


@pytest.mark.parametrize("name", [*DEPLOYMENTS, *(f"make {target}" for target in TARGETS)])
def test_the_readme_names(name: str) -> None:
    assert f"`{name}" in README


@pytest.mark.parametrize("block", BLOCKS)
def test_the_readme_names_the_block(block: type) -> None:
    assert f"**{block._block_type_name}**" in README  # type: ignore[attr-defined]


def test_the_blocks_of_the_readme_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its example as it stands there, but for the saving, beside files of these names."""
    [example] = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (tmp_path / "ca.crt").write_bytes(unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.chdir(tmp_path)
    saved: list[tuple[str, str]] = []
    monkeypatch.setattr(Block, "save", lambda block, name: saved.append((type(block).__name__, name)))
    exec(example, {})  # noqa: S102 - it is ours
    assert {kind for kind, _ in saved} >= {block.__name__ for block in BLOCKS}
