"""The builder as the loader's order: the same image from the bucket and from the volume, in a flow's process and in a pod's."""

import os
import secrets
from typing import Any

import pytest

from modelyard.images.references import Reference
from modelyard.modelcar.order import BuildResult, BuildSpec, built, listing_of, planned
from modelyard.modelcar.publish import Modelcar, publish
from modelyard.modelcar.records import unfinished_tag
from modelyard.models import ClaimLocation, Listing, ModelRef
from modelyard.oci.environment import VOUCHER_VARIABLE, secret_of
from modelyard.oci.registry import Repository
from modelyard.orders import Report
from modelyard.plans.modelcar import ModelcarPlan
from tests.services.oci.building import AMD64, ARM64, Builder, new_repository
from tests.services.oci.oracle import assert_modelcar
from tests.services.oci.registries import Registry
from tests.services.oci.registry_proxy import Fault, proxy_before
from tests.services.oci.sources import location, order
from tests.services.s3_fixtures import Bucket, Loader, Run

MIB = 1024 * 1024
FILES = {"config.json": b"{}", "empty": b"", "a/b.txt": b"b", "model.safetensors": os.urandom(20 * MIB + 3)}


def on_claim(version: str = "v1") -> ClaimLocation:
    return ClaimLocation(claim="cache", model=ModelRef(name="m", version=version))


def spec_of(builder: Builder, listing: Listing | None = None, **fields: Any) -> BuildSpec:
    request = builder.request(platforms=(AMD64, ARM64)).model_copy(update=fields)
    return BuildSpec(request=request, listing=listing, plain_http=builder.registry.scheme == "http")


def report(run: Run) -> Report[BuildResult]:
    result = run.succeeded()
    return Report(BuildResult.model_validate({key: value for key, value in result.items() if key != "event"}), tuple(run.entries))


def carry_out(builder: Builder, loader: Loader, repository: str, **fields: Any) -> tuple[ModelcarPlan, Modelcar, Run]:
    """As the flow does it: a first order plans, a second one builds, the flow publishes; the first one's plan, the image."""
    image = builder.request(repository=repository).image
    environment = secret_of(builder.keychain)
    plan = planned(report(loader.run(spec_of(builder, image=image, **fields), **environment)))
    with Repository(builder.keychain.main, repository) as target:
        assert target.digest("v1") is None, "a plan changes nothing"
    run = loader.run(spec_of(builder, listing_of(plan), image=image, **fields), **environment)
    followed, made = built(report(run))
    return plan, publish(followed, made, builder.keychain), run


def test_the_same_image_from_bucket_and_volume(versioned_bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    versioned_bucket.put(FILES)
    builder = Builder(versioned_bucket, registry_3)
    in_process, _ = builder.build(repository=new_repository(), platforms=(AMD64, ARM64))
    plan, from_bucket, run = carry_out(builder, loader, new_repository())
    assert "dev.modelyard" not in run.error
    loader.run(versioned_bucket.spec()).succeeded()
    read, repository = len(versioned_bucket.requests("GetObject")), new_repository()
    plan_here, from_volume, run = carry_out(builder, loader, repository, source=on_claim())
    assert len(versioned_bucket.requests("GetObject")) == read, "nothing came from the bucket"
    assert '"event": "progress"' in run.output
    assert from_volume.digest == from_bucket.digest == in_process.digest
    assert listing_of(plan_here) == listing_of(plan)
    assert assert_modelcar(registry_3.host, repository, "v1", FILES, ("linux/amd64", "linux/arm64")) == in_process.digest


def test_an_image_of_a_version_that_came_from_an_image(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    bucket.put(FILES)
    builder, repository = Builder(bucket, registry_3), new_repository()
    first, _ = builder.build(repository=repository)
    loader.run(order(location(registry_3, repository))).succeeded()
    again = new_repository()
    _, image, _ = carry_out(builder, loader, again, source=on_claim())
    assert image.content_digest == first.content_digest
    assert_modelcar(registry_3.host, again, "v1", FILES, ("linux/amd64", "linux/arm64"))


def test_rot_on_the_volume_gets_into_no_image(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    bucket.put(FILES)
    loader.run(bucket.spec()).succeeded()
    builder, repository = Builder(bucket, registry_3), new_repository()
    image = builder.request(repository=repository).image
    plan = planned(report(loader.run(spec_of(builder, image=image, source=on_claim()))))
    told = spec_of(builder, listing_of(plan), image=image, source=on_claim())
    (loader.root / "m/v1/config.json").write_bytes(b"[]")
    loader.run(told).failed("VolumeUnusable", "config.json", "which is not what was published", "verify-cache")
    (loader.root / "m/v1/config.json").unlink()
    loader.run(told).failed("VolumeUnusable", "config.json", "verify-cache")
    with Repository(registry_3.access, repository) as target:
        assert target.find("v1") is None


def test_a_signed_build_goes_on_with_what_a_job_before_it_finished(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    """Nothing else is believed: its record by the secret that the flow makes of the key, which no pod has."""
    bucket.put(FILES)
    builder = Builder(bucket, registry_3)
    image = builder.request(repository=new_repository()).image
    plan = planned(report(loader.run(spec_of(builder, image=image, believed=()))))
    told, read = spec_of(builder, listing_of(plan), image=image, believed=()), plan.new_bytes
    mine, others = ({VOUCHER_VARIABLE: secrets.token_hex(32)} for _ in range(2))
    assert report(loader.run(told, **mine)).result.read_bytes == read
    run = loader.run(told, **mine)
    assert report(run).result.read_bytes == 0
    assert mine[VOUCHER_VARIABLE] not in run.output
    assert report(loader.run(told, **others)).result.read_bytes == read, "written with another secret"
    assert report(loader.run(told, **mine)).result.read_bytes == read, "the other's record"
    record = Reference(host=image.host, repository=image.repository, tag=unfinished_tag("v1"))
    with Repository(registry_3.access, image.repository) as target:
        document = target.find(record.selector)
        assert document
        changed = document.content.replace(b"/m/v1", b"/m/v2", 1)
        assert changed != document.content
        target.put_manifest(document.media_type, changed, record.selector)
    assert report(loader.run(told, **mine)).result.read_bytes == read, "changed by somebody"
    assert report(loader.run(told)).result.read_bytes == read, "without a key"


@pytest.mark.parametrize("resume", [True, False], ids=["resumed", "replayed"])
def test_a_cut_upload_of_a_job_goes_on_where_its_order_allows_it(
    bucket: Bucket, registry_3: Registry, loader: Loader, *, resume: bool
) -> None:
    bucket.put(FILES)
    builder, repository = Builder(bucket, registry_3), new_repository()
    with proxy_before(registry_3) as proxy:
        image = builder.request(repository=repository).image.model_copy(update={"host": proxy.host})
        plan = planned(report(loader.run(spec_of(builder, image=image))))
        proxy.faults = [Fault("^PATCH ", cut=12 * MIB)]
        order = spec_of(builder, listing_of(plan), image=image).model_copy(update={"resume_uploads": resume})
        run = loader.run(order)
        assert proxy.faults[0].done == 1
    assert len(report(run).entries) == 3
    assert ("goes on at byte" in run.output) is resume


def test_orders_that_are_refused(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    bucket.put(FILES)
    builder = Builder(bucket, registry_3)
    image = builder.request(repository=new_repository()).image
    loader.run(spec_of(builder, image=image, source=on_claim("v9"))).failed("SourceMissing", "m@v9: is not on the volume")
    plan = planned(report(loader.run(spec_of(builder, image=image))))
    bucket.put({"config.json": b"{ }"})
    loader.run(spec_of(builder, listing_of(plan), image=image)).failed("SourceChanged", "plan again")
    bad = spec_of(builder, image=image.at(tag="latest"))
    assert any("pull policy" in str(problem) for problem in planned(report(loader.run(bad))).problems)
    loader.run(bad.model_copy(update={"listing": listing_of(plan)})).failed("Refused", "pull policy")
