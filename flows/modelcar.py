"""Modelcar: a model version at its source becomes an image in a registry, streamed, without a disk."""

from functools import partial
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import OciRegistry, SigningKey, load_block
from flows.keychains import keychain_of_block
from flows.modelcar_sites import InRun, end_build, end_build_never_started, image_key, site_of
from flows.parameters import BUSYBOX, ShortText, parse_image
from flows.plans import publish_plan
from flows.signing import believing, trust_of
from modelyard.errors import Problem, Refused
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.modelcar.build import Built
from modelyard.modelcar.publish import Modelcar, publish
from modelyard.modelcar.report import ModelcarReport, describe_result, layer_rows, report_of, summary
from modelyard.models import BuildSource
from modelyard.oci.access import Keychain
from modelyard.plans.modelcar import ModelcarPlan, ModelcarRequest, describe
from modelyard.signing.sign import sign_image

NO_BASE = "none"
Image = Annotated[str, Field(max_length=500)]
Platforms = Annotated[list[Annotated[str, Field(max_length=50)]], Field(min_length=1, max_length=10)]


@flow(name="build-modelcar", flow_run_name="build-{model}", on_cancellation=[end_build], on_crashed=[end_build_never_started])
def build_modelcar(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    model: ShortText,
    path: Annotated[str, Field(max_length=1000)],
    repository: Annotated[str, Field(min_length=1, max_length=255)],
    version: ShortText | None = None,
    source: ShortText = "default",
    registry: ShortText = "default",
    tag: Annotated[str, Field(max_length=128)] | None = None,
    base: Image = BUSYBOX,
    platforms: Platforms = ["linux/amd64", "linux/arm64"],  # noqa: B006 - Prefect copies it; a form shows a list
    previous: Image = "",
    signing_key: Annotated[str, Field(max_length=100)] = "",
    cache: ShortText | None = None,
    cluster: ShortText = "default",
    move_tag: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    dry_run: bool = False,  # noqa: FBT001, FBT002
) -> ModelcarReport:
    """Make one version of a model an image that KServe and Kubernetes can mount: one layer a weight file, every byte checked on its way.

    Safe to run again after any end: an image that is there already is left alone, and a build that was killed goes on with the layers
    that it had finished.

    Args:
        model: Name of the model; it becomes the image's title.
        path: Path of the version's files below the source's prefix, for example all-minilm-l6-v2/v1; or a version on the cache's claim,
            for example pvc://modelyard-models-cache/all-minilm-l6-v2/v1, which can only be built unsigned.
        repository: Repository in the registry, for example models/all-minilm-l6-v2.
        version: Name of this version; empty: the last directory of the path.
        source: Name of the Modelyard S3 Source block to read from; not used for a version on a claim.
        registry: Name of the Modelyard OCI Registry block to push to.
        tag: Tag of the image; empty: the version. Never latest, which makes Kubernetes pull at every start of a pod.
        base: Image below the model, best by digest: it needs a shell, ln, sleep and ls for KServe's oci://. The word none makes an image
            that can only be mounted (oci+native://, image volumes).
        platforms: What nodes the image is for; the model's layers are shared.
        previous: Image of the version before, with tag or digest, in the same registry: layers of its unchanged files are used again
            without reading them from the source. Empty: none; the tag's own and a killed build's are always looked at.
        signing_key: Name of the Modelyard Signing Key block that signs the image, its files and what it was made from, before the tag
            names it; layers of earlier builds are then used again only if a trusted key signed those. Empty: it is not signed.
        cache: Name of the Modelyard Model Cache block beside whose claim a Job builds the image, with the block's loader image. Empty:
            the flow run builds it itself, which it can from a bucket only. The image is the same.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        move_tag: Let the tag name this image if it names another one now.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
    """
    target = load_block(OciRegistry, registry)
    key = load_block(SigningKey, signing_key) if signing_key else None
    trust = trust_of(target, key)
    site = site_of(path, source, target, cache, cluster, trust)
    request = request_of(model, version, site.location, Reference(host=target.host, repository=repository, tag=tag), base, platforms)
    rules = {"move_tag": move_tag, "weights": target.weight_formats, "require_digests": target.require_digests}
    request = request.model_copy(update={"previous": parse_image(previous, "previous") if previous else None, **rules})
    request = believing(request, keychain_of_block(target), trust, records=isinstance(site, InRun))
    plan = site.plan(request)
    key_of_plan = image_key(request, "plan")
    publish_plan(describe(plan), plan.problems, key=key_of_plan, description=f"Plan {plan.digest}", dry_run=dry_run)
    if dry_run:
        return report_of(plan)
    plan, built = site.build(plan.approved())
    image = publish_image(plan, built, keychain_of_block(target), key)
    publish_result(plan, built, image)
    return report_of(plan, built, image)


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
    create_markdown_artifact(describe_result(built, image), key=image_key(plan.request), description=summary(built))
    create_table_artifact(layer_rows(built), key=image_key(plan.request, "layers"), description=f"Layers of {image.image}")


def request_of(model: str, version: str | None, source: BuildSource, image: Reference, base: str, platforms: list[str]) -> ModelcarRequest:
    """The request that the form's texts mean.

    Raises:
        Refused: a text that cannot be read.
    """
    named = version or source.last_name
    try:
        parsed = tuple(Platform.parse(text) for text in platforms)
    except ValueError as error:
        raise Refused([Problem("platforms", str(error), "correct it")]) from error
    return ModelcarRequest(
        model=model,
        version=named,
        source=source,
        image=image.at(tag=image.tag or named),
        base=None if base == NO_BASE else parse_image(base, "base"),
        platforms=parsed,
    )
