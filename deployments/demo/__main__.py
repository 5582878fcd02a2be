"""``python -m deployments.demo up|down``: what ``make demo`` and ``make demo-down`` run."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr, ValidationError

import devcluster
from blocks import Cluster
from deployments.demo import model, modelcar
from deployments.demo.check import check_files
from deployments.demo.modelcar import Asked
from deployments.demo.own_stack import CLUSTER, start_own
from deployments.demo.prefect_side import POOL, PrefectSide, carry_out, save_blocks
from deployments.demo.settings import DemoTarget, own_cluster, state_directory
from devcluster import DevclusterError
from modelyard.errors import ClusterRefused, ModelyardError, Problem, Refused
from modelyard.kube.apply import apply
from modelyard.kube.client import Kube
from modelyard.names import artifact_key

NAMESPACE = "modelyard-demo"
_CATALOGUE = Path(__file__).parents[1] / "kubernetes" / "crd" / "cachedmodels.yaml"
_BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line for the person at the terminal, with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}\n")
    sys.stdout.flush()


@contextmanager
def step(text: str) -> Iterator[None]:
    """Tell what begins, and how long it took."""
    say(f"{text} ...")
    began = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - began:.1f} s")


def up() -> None:
    """The main job, from nothing to a verified model on a claim."""
    state = state_directory()
    prefect = PrefectSide(state, int(os.environ.get("PREFECT_PORT", "4200")))
    target = _target()
    kube = _kube(target)
    with step("demo: Prefect server and UI"):
        prefect.start_server()
    with step("demo: modelyard upload"):
        files = model.obtain(state)
        digests = model.digests(files)
        for line in _upload(target, files).splitlines():
            say(f"  {line}")
    with step("demo: register blocks, deploy, start a worker"):
        _deploy(prefect, target, kube)
    reads = _object_reads(target)
    with prefect.settings(), step("demo: deployment preload-model"):
        run = carry_out(prefect, {"model": model.MODEL, "path": model.PATH}, say)
    if reads is not None:
        say(f"  the S3 server's access log: {_object_reads(target, reads)} reads of objects in this run")
    with step("demo: check every file on the claim in a pod, by sha256sum and the publisher's SHA256SUMS"):
        claim = cache_options(target)["baseName"]
        say("  " + check_files(kube, NAMESPACE, str(claim), target.loader_image, model.PATH, digests))
    asked = modelcar.serve(prefect, devcluster.connect(CLUSTER), kube, step, say) if _with_modelcar() else None
    _tell(prefect, target, str(run))
    if asked:
        _tell_modelcar(target, asked)


def _with_modelcar() -> bool:
    return bool(os.environ.get("MODELCAR"))


def _target() -> DemoTarget:
    if (own := own_cluster(os.environ)) is None:
        return start_own(step, extras=["kserve"] if _with_modelcar() else [])
    if _with_modelcar():
        next_step = "leave out KUBECONFIG, or run the deployments build-modelcar and serve-modelcar, which are there after `make demo`"
        raise Refused([Problem("MODELCAR", "goes with the cluster that the demo starts: it brings KServe and a registry", next_step)])
    return own


def _upload(target: DemoTarget, files: Path) -> str:
    options = ["--endpoint-url", target.s3_endpoint, "--region", target.s3_region]
    ca = state_directory() / "s3-ca.crt"
    if target.ca_certificate:
        ca.write_text(target.ca_certificate)
        options += ["--ca-bundle", str(ca)]
    if target.access_log:  # the store is ours: so is the bucket
        _make_bucket(target, ca)
    keys = {"AWS_ACCESS_KEY_ID": target.s3_keys.access_key, "AWS_SECRET_ACCESS_KEY": target.s3_keys.secret_key}
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}  # a session of the user's, above all
    return model.upload(files, f"s3://{target.s3_bucket}/{model.PATH}/", options, others | keys)


def _make_bucket(target: DemoTarget, ca: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=target.s3_endpoint,
        region_name=target.s3_region,
        aws_access_key_id=target.s3_keys.access_key,
        aws_secret_access_key=target.s3_keys.secret_key,
        verify=str(ca) if target.ca_certificate else None,
        config=Config(s3={"addressing_style": "path"}),
    )
    try:
        client.create_bucket(Bucket=target.s3_bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
    client.put_bucket_versioning(Bucket=target.s3_bucket, VersioningConfiguration={"Status": "Enabled"})


def _deploy(prefect: PrefectSide, target: DemoTarget, kube: Kube) -> None:
    if kube.get("Namespace", NAMESPACE) is None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        apply(kube, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    _install_catalogue(kube)
    prefect.command("block", "register", "-m", "blocks")
    with prefect.settings():
        save_blocks(target, cache_options(target))
    prefect.command("work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect.command("deploy", "--all")
    prefect.start_worker()


def _install_catalogue(kube: Kube) -> None:
    """The kind CachedModel; an account that may not install it has the demo without a catalogue."""
    try:
        say(f"  {apply(kube, yaml.safe_load(_CATALOGUE.read_text()))}")
    except ClusterRefused as error:
        say(f"  no catalogue (kubectl get cachedmodels): {error}")


def cache_options(target: DemoTarget) -> dict[str, object]:
    """The demo's Model Cache block, in the words of the Helm values."""
    return {
        "enabled": True,
        "namespace": NAMESPACE,
        "baseName": "demo-models-cache",
        "storageSize": "2Gi",
        "storageClassName": target.storage_class,
        "headroom": "100Mi",
        "weightFormats": "no-pickle",
        "requireDigests": True,
        "loaderImage": target.loader_image,
    }


def _kube(target: DemoTarget) -> Kube:
    return Kube(Cluster(kubeconfig=SecretStr(target.kubeconfig.read_text()), context=target.context).get_client())


def _object_reads(target: DemoTarget, before: int = 0) -> int | None:
    """How many object reads the access log of our S3 server holds, less ``before``; None where the store is not ours."""
    if target.access_log is None:
        return None
    with target.access_log.open(errors="replace") as lines:
        return sum("s3_GetObject" in line for line in lines) - before


def _tell(prefect: PrefectSide, target: DemoTarget, run: str) -> None:
    history = artifact_key("preload", model.MODEL, NAMESPACE, str(cache_options(target)["baseName"]))
    say("demo: the model lies on the claim, every byte checked. Look at:")
    for text in (
        f"the run, its tasks and log   {prefect.url}/runs/flow-run/{run}",
        f"the model's history          {prefect.url}/artifacts/key/{history}",
        f"the form to start another    {prefect.url}/deployments",
        f"the catalogue                kubectl --kubeconfig {target.kubeconfig} get cachedmodels -A",
        f"the claim                    kubectl --kubeconfig {target.kubeconfig} -n {NAMESPACE} get pvc,jobs",
        "again (reads no object)      make demo",
        "stop all of it               make demo-down",
    ):
        say(f"  {text}")


def _tell_modelcar(target: DemoTarget, asked: Asked) -> None:
    say("demo: KServe serves the model from its image. The similarities of three sentences, computed from its weights:")
    count = len(modelcar.TEXTS)
    for row, text in enumerate(modelcar.TEXTS):
        numbers = " ".join(f"{number:7.4f}" for number in asked.similarities[row * count : (row + 1) * count])
        say(f"  {text:30} {numbers}")
    say(f"  the service   kubectl --kubeconfig {target.kubeconfig} -n {modelcar.NAMESPACE} get inferenceservices,pods")
    say(f"  ask it        {asked.command()}")


def down(*, purge: bool) -> None:
    """End what the demo started; ``purge`` forgets its data too."""
    state = state_directory()
    PrefectSide(state, int(os.environ.get("PREFECT_PORT", "4200"))).stop()
    devcluster.down(CLUSTER, purge=purge)
    if purge:
        shutil.rmtree(state)
    say("demo: stopped" + (", its data removed" if purge else "; `make demo` goes on with its data, `make demo-down PURGE=1` forgets it"))
    say(f"  a cluster of your own keeps the namespace {NAMESPACE} and what is in it: kubectl delete namespace {NAMESPACE}")


def main() -> int:
    """Run one command; errors that are meant for people are told without a traceback."""
    parser = argparse.ArgumentParser(prog="deployments.demo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    commands.add_parser("down").add_argument("--purge", action="store_true")
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            up()
        else:
            down(purge=arguments.purge)
    except (ModelyardError, DevclusterError, ClientError, BotoCoreError, ValidationError, CalledProcessError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
