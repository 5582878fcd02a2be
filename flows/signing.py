"""Signatures of images in flows: what a registry's block demands of an image before anything is done with it."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks import OciRegistry, SigningKey
from flows.keychains import keychain_of_block
from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference
from modelyard.modelcar.resolve import earlier_builds
from modelyard.oci.access import Keychain
from modelyard.plans.modelcar import ModelcarRequest
from modelyard.signing.keys import PublicKey, hints
from modelyard.signing.trust import Trust
from modelyard.signing.verify import Verified, verify_image


def demand_signature(image: Reference, registry: OciRegistry) -> Reference:
    """``image`` by the digest that was verified; as it is, if the registry's block trusts no keys in particular.

    What is done next is to be done with this reference: a tag may name another image a moment later.

    Raises:
        Refused: the block has trusted keys, and none of them signed the image and its files.
    """
    keys = registry.public_keys()
    return Reference.parse(check_signature(image, keychain_of_block(registry), keys).image) if keys else image


def trust_of(registry: OciRegistry, key: SigningKey | None) -> Trust | None:
    """What a build may take on trust; None if nothing is signed nor demanded to be.

    Raises:
        Refused: the registry's block would not trust what is signed with this key.
    """
    signing, trusted = key.key() if key else None, registry.public_keys()
    if signing and trusted and signing.public.pem not in {each.pem for each in trusted}:
        what = f"is none of those that the block of {registry.host} trusts ({hints(trusted)})"
        raise Refused([Problem(f"signing key {signing.public.hint[:12]}", what, "add its public key there, or sign with one of them")])
    keys = trusted or ((signing.public,) if signing else ())
    return Trust(keys, signing) if keys else None


def believing(request: ModelcarRequest, keychain: Keychain, trust: Trust | None, *, records: bool) -> ModelcarRequest:
    """The request with what of earlier builds may be used again: all of it, if nothing is to be signed.

    Without ``records`` those of builds that did not end are left to a Job: one that is told of them, as they change, is another Job.
    """
    if trust is None:
        return request
    return request.model_copy(update={"believed": find_believed(request, keychain, trust, records=records)})


@task(task_run_name="trust-{request.model}", cache_policy=NO_CACHE)
def find_believed(request: ModelcarRequest, keychain: Keychain, trust: Trust, *, records: bool) -> tuple[str, ...]:
    """Look which earlier builds a trusted key vouches for; what failed for a passing reason was tried again within."""
    return trust.believed(keychain, earlier_builds(request, records=records))


@task(task_run_name="verify-{image}", cache_policy=NO_CACHE)
def check_signature(image: Reference, keychain: Keychain, keys: tuple[PublicKey, ...], *, read_layers: bool = False) -> Verified:
    """Verify an image; what failed for a passing reason was tried again within."""
    verified = verify_image(keychain, image, keys, read_layers=read_layers)
    get_run_logger().info("%s: signed by %s, %d files", verified.image, verified.key[:12], verified.files)
    return verified
