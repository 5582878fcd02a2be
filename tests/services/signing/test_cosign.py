"""The cosign command itself: it takes four minutes to build, so the other tests ask its packages."""

import os
import subprocess
from pathlib import Path

import pytest

from modelyard.errors import Refused
from modelyard.signing.keys import read_public_keys
from modelyard.signing.sign import sign_image
from modelyard.signing.statements import MODEL
from modelyard.signing.verify import verify_image
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket
from tests.services.signing.conftest import PASSWORD, KeyPair, build
from tests.services.signing.oracles import COSIGN, check_model, program
from tests.services.signing.test_sign import write

pytestmark = pytest.mark.faults
OFFLINE = ("--private-infrastructure", "--allow-http-registry")


def cosign(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HOME": str(home), "COSIGN_PASSWORD": PASSWORD}
    return subprocess.run([program(COSIGN), *arguments], check=False, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.timeout(1800)
def test_the_command_accepts_and_is_accepted(
    bucket: Bucket, any_registry: Registry, keys: KeyPair, other_keys: KeyPair, tmp_path: Path
) -> None:
    for pair, name in ((keys, "mine"), (other_keys, "other")):
        (tmp_path / f"{name}.pub").write_text(pair.public)
        (tmp_path / f"{name}.key").write_text(pair.private)
    files = {"config.json": b"{}", "model.safetensors": os.urandom(1000)}
    image = build(bucket, any_registry, files)
    sign_image(any_registry.keychain, image, keys.key)
    forms = (("verify",), ("verify", "--new-bundle-format=false"), ("verify-attestation", "--type", "slsaprovenance1"))
    for form in forms:
        done = cosign(tmp_path, *form, "--key", str(tmp_path / "mine.pub"), *OFFLINE, str(image))
        assert done.returncode == 0, done.stderr
        refused = cosign(tmp_path, *form, "--key", str(tmp_path / "other.pub"), *OFFLINE, str(image))
        assert refused.returncode != 0

    told = cosign(tmp_path, "download", "attestation", "--predicate-type", MODEL, "--allow-http-registry", str(image))
    assert told.returncode == 0, told.stderr
    directory = write(tmp_path / "model", files)
    assert not check_model(directory, told.stdout.encode(), keys.public), "as the README says it"

    unsigned = build(bucket, any_registry, {"config.json": b"{ }"})
    offline = ("--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry", "--yes")
    for bundle in ("true", "false"):
        done = cosign(tmp_path, "sign", f"--new-bundle-format={bundle}", "--key", str(tmp_path / "other.key"), *offline, str(unsigned))
        assert done.returncode == 0, done.stderr
        with pytest.raises(Refused, match="carries no statement of its files"):
            verify_image(any_registry.keychain, unsigned, read_public_keys(other_keys.public))
        with pytest.raises(Refused, match="signed, but not by a trusted key"):
            verify_image(any_registry.keychain, unsigned, read_public_keys(keys.public))
        unsigned = build(bucket, any_registry, {"config.json": b"{  }"})
