"""What the demo is given: a cluster and a store of ours (the default), or the user's own, said explicitly.

Nothing is taken from a current context, and nothing of ours is started in the place of what the user names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelyard.errors import Problem, Refused

#: What has to be given with KUBECONFIG, and what it is.
_REQUIRED = {
    "LOADER_IMAGE": "the loader's image in a registry that the cluster pulls from (`make loader-image IMAGE=...`)",
    "S3_ENDPOINT_URL": "the URL of an S3 store that this machine and the cluster's pods reach",
    "S3_BUCKET": "a bucket in it, which exists",
    "AWS_ACCESS_KEY_ID": "a key that may list, read and write there",
    "AWS_SECRET_ACCESS_KEY": "its secret",
}


@dataclass(frozen=True, slots=True)
class DemoTarget:
    """Where the demo runs. Secrets are kept out of its repr."""

    kubeconfig: Path
    context: str | None
    s3_endpoint: str
    s3_bucket: str
    s3_region: str
    s3_keys: "S3Keys"
    ca_certificate: str | None
    storage_class: str | None
    loader_image: str
    access_log: Path | None = None  # only where the store is ours


@dataclass(frozen=True, slots=True, repr=False)
class S3Keys:
    """An access key and its secret."""

    access_key: str
    secret_key: str


def own_cluster(environment: Mapping[str, str]) -> DemoTarget | None:
    """The user's own cluster and store, if KUBECONFIG is given; None: ours are to be started.

    Raises:
        Refused: something that goes with it is missing; all of it is listed.
    """
    if not (kubeconfig := environment.get("KUBECONFIG", "")):
        return None
    problems = [Problem(name, "is not set", f"give {text}") for name, text in _REQUIRED.items() if not environment.get(name)]
    path = Path(kubeconfig)
    problems += _kubeconfig_problems(path, environment.get("KUBE_CONTEXT"))
    if problems:
        raise Refused(problems)
    bundle = environment.get("S3_CA_BUNDLE")
    return DemoTarget(
        kubeconfig=path,
        context=environment.get("KUBE_CONTEXT"),
        s3_endpoint=environment["S3_ENDPOINT_URL"],
        s3_bucket=environment["S3_BUCKET"],
        s3_region=environment.get("S3_REGION", "us-east-1"),
        s3_keys=S3Keys(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]),
        ca_certificate=Path(bundle).read_text() if bundle else None,
        storage_class=environment.get("STORAGE_CLASS"),
        loader_image=environment["LOADER_IMAGE"],
    )


def _kubeconfig_problems(path: Path, context: str | None) -> list[Problem]:
    try:
        contexts = [entry["name"] for entry in yaml.safe_load(path.read_text())["contexts"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        return [Problem("KUBECONFIG", f"{path} is no readable kubeconfig ({error})", "name a file of one cluster")]
    if context is None and len(contexts) > 1:
        return [Problem("KUBE_CONTEXT", f"is not set, and {path} has {', '.join(contexts)}", "name the one to use")]
    return []


def state_directory() -> Path:
    """Where the demo keeps Prefect's database, logs and pid files; made for this user alone."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    directory = Path(base) / "modelyard" / "demo"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
