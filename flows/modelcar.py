"""Modelcar: a model version at its source becomes an image in a registry, streamed, without a disk."""

from contextlib import closing
from functools import partial
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import OciRegistry, S3Source, SigningKey, load_block
from flows.parameters import ShortText
from flows.progress import LoadProgress
from flows.retries import retried
from modelyard.errors import Problem, Refused, SourceUnavailable
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.modelcar.build import Built, build_layers
from modelyard.modelcar.publish import Modelcar, publish
from modelyard.modelcar.report import ModelcarReport, describe_result, layer_rows, report_of, summary
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.models import S3Location
from modelyard.names import artifact_key
from modelyard.oci.access import Keychain
from modelyard.plans.modelcar import ModelcarFacts, ModelcarPlan, ModelcarRequest, describe, plan_modelcar
from modelyard.signing.sign import sign_image
from modelyard.sources.s3 import S3Source as S3Files

#: Static, for amd64 and arm64, with the shell, ln, sleep and ls that serving runtimes call in a modelcar.
DEFAULT_BASE = "docker.io/library/busybox:1.37.0-musl"
NO_BASE = "none"
Image = Annotated[str, Field(max_length=500)]
Platforms = Annotated[list[Annotated[str, Field(max_length=50)]], Field(min_length=1, max_length=10)]


@flow(name="build-modelcar", flow_run_name="build-{model}")
def build_modelcar(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    model: ShortText,
    path: Annotated[str, Field(max_length=1000)],
    repository: Annotated[str, Field(min_length=1, max_length=255)],
    version: ShortText | None = None,
    source: ShortText = "default",
    registry: ShortText = "default",
    tag: Annotated[str, Field(max_length=128)] | None = None,
    base: Image = DEFAULT_BASE,
    platforms: Platforms = ["linux/amd64", "linux/arm64"],  # noqa: B006 - Prefect copies it; a form shows a list
    previous: Image = "",
    signing_key: Annotated[str, Field(max_length=100)] = "",
    move_tag: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    dry_run: bool = False,  # noqa: FBT001, FBT002
) -> ModelcarReport:
    """Make one version of a model an image that KServe and Kubernetes can mount: one layer a weight file, every byte checked on its way.

    Safe to run again after any end: an image that is there already is left alone, and a build that was killed goes on with the layers
    that it had finished.

    Args:
        model: Name of the model; it becomes the image's title.
        path: Path of the version's files below the source's prefix, for example all-minilm-l6-v2/v1.
        repository: Repository in the registry, for example models/all-minilm-l6-v2.
        version: Name of this version; empty: the last directory of the path.
        source: Name of the Modelyard S3 Source block to read from.
        registry: Name of the Modelyard OCI Registry block to push to.
        tag: Tag of the image; empty: the version. Never latest, which makes Kubernetes pull at every start of a pod.
        base: Image below the model, best by digest: it needs a shell, ln, sleep and ls for KServe's oci://. The word none makes an image
            that can only be mounted (oci+native://, image volumes).
        platforms: What nodes the image is for; the model's layers are shared.
        previous: Image of the version before, with tag or digest, in the same registry: layers of its unchanged files are used again
            without reading them from the source. Empty: none; the tag's own and a killed build's are always looked at.
        signing_key: Name of the Modelyard Signing Key block that signs the image, its files and what it was made from, before the tag
            names it. Empty: it is not signed.
        move_tag: Let the tag name this image if it names another one now.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
    """
    files, target = load_block(S3Source, source), load_block(OciRegistry, registry)
    key = load_block(SigningKey, signing_key) if signing_key else None
    request = request_of(model, version, files.location(path), Reference(host=target.host, repository=repository, tag=tag), base, platforms)
    request = request.model_copy(update={"previous": _reference(previous, "previous") if previous else None, "move_tag": move_tag})
    keychain = target.keychain()
    plan = plan_modelcar(request, resolve(request, files, keychain))
    create_markdown_artifact(describe(plan), key=_key(plan, "plan"), description=f"Plan {plan.digest}")
    if dry_run:
        return report_of(plan)
    built = build(plan.approved(), files, keychain)
    image = publish_image(plan, built, keychain, key)
    publish_result(plan, built, image)
    return report_of(plan, built, image)


@task(task_run_name="resolve-{request.model}", **retried(SourceUnavailable))
def resolve(request: ModelcarRequest, source: S3Source, keychain: Keychain) -> ModelcarFacts:
    """Read the facts once: what the source lists, the base, the tag, layers that earlier builds left. Registries are tried again within."""
    with closing(source.client()) as client:
        return read_facts(request, S3Files(request.source, client), keychain)


@task(task_run_name="build-{plan.request.model}", cache_policy=NO_CACHE)
def build(plan: ModelcarPlan, source: S3Source, keychain: Keychain) -> Built:
    """Stream the new layers from the source into the registry. What failed here was tried again within, so not once more as a whole."""
    progress = LoadProgress(_key(plan, "progress"), str(plan.request.image))
    with closing(source.client()) as client:
        files = S3Files(plan.request.source, client, access=source.access())
        built = build_layers(plan, files, keychain, Tuning(), progress, get_run_logger().info)
    progress.finish(summary(built))
    return built


@task(task_run_name="publish-{plan.request.image}", cache_policy=NO_CACHE)
def publish_image(plan: ModelcarPlan, built: Built, keychain: Keychain, key: SigningKey | None) -> Modelcar:
    """Put the image by its digest, sign that, and let the tag name it last."""
    image = publish(plan, built, keychain, sign=partial(_sign, keychain, key) if key else None)
    for note in image.notes:
        get_run_logger().info(note)
    return image


def _sign(keychain: Keychain, key: SigningKey, image: Reference) -> str:
    signed = sign_image(keychain, image, key.key())
    get_run_logger().info("%s: signed by %s, %d files", image, signed.key[:12], signed.files)
    return signed.key


def publish_result(plan: ModelcarPlan, built: Built, image: Modelcar) -> None:
    """What was done, as artifacts of the model: its page is the model's history."""
    create_markdown_artifact(describe_result(built, image), key=_key(plan), description=summary(built))
    create_table_artifact(layer_rows(built), key=_key(plan, "layers"), description=f"Layers of {image.image}")


def request_of(model: str, version: str | None, source: S3Location, image: Reference, base: str, platforms: list[str]) -> ModelcarRequest:
    """The request that the form's texts mean.

    Raises:
        Refused: a text that cannot be read.
    """
    named = version or source.directory.rstrip("/").rpartition("/")[2]
    try:
        parsed = tuple(Platform.parse(text) for text in platforms)
    except ValueError as error:
        raise Refused([Problem("platforms", str(error), "correct it")]) from error
    return ModelcarRequest(
        model=model,
        version=named,
        source=source,
        image=image.at(tag=image.tag or named),
        base=None if base == NO_BASE else _reference(base, "base"),
        platforms=parsed,
    )


def _reference(text: str, field: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise Refused([Problem(field, str(error), "correct it")]) from error


def _key(plan: ModelcarPlan, part: str = "") -> str:
    """The key of the model's artifacts: one page of history a repository."""
    image = plan.request.image
    return artifact_key("modelcar", image.repository, image.host, part=part)
