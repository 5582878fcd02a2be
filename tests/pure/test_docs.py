"""The README names every deployment, block and command: what is not in it does not exist for a user."""

import re
from pathlib import Path

import pytest
import yaml

from blocks import Cluster, ModelCache, OciRegistry, S3Source, SigningKey

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DEPLOYMENTS = [each["name"] for each in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]]
INTERNAL = {"help", "setup", "format", "lock", "screenshot"}
TARGETS = [name for name in re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE) if name not in INTERNAL]


@pytest.mark.parametrize("name", [*DEPLOYMENTS, *(f"make {target}" for target in TARGETS)])
def test_the_readme_names(name: str) -> None:
    assert f"`{name}" in README


@pytest.mark.parametrize("block", [Cluster, S3Source, ModelCache, OciRegistry, SigningKey])
def test_the_readme_names_the_block(block: type) -> None:
    assert f"**{block._block_type_name}**" in README  # type: ignore[attr-defined]
