"""Signatures of images in flows: what a registry's block demands of an image before anything is done with it."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks import OciRegistry
from modelyard.images.references import Reference
from modelyard.oci.access import Keychain
from modelyard.signing.keys import PublicKey
from modelyard.signing.verify import Verified, verify_image


def demand_signature(image: Reference, registry: OciRegistry) -> Reference:
    """``image`` by the digest that was verified; as it is, if the registry's block trusts no keys in particular.

    What is done next is to be done with this reference: a tag may name another image a moment later.

    Raises:
        Refused: the block has trusted keys, and none of them signed the image and its files.
    """
    keys = registry.public_keys()
    return Reference.parse(check_signature(image, registry.keychain(), keys).image) if keys else image


@task(task_run_name="verify-{image}", cache_policy=NO_CACHE)
def check_signature(image: Reference, keychain: Keychain, keys: tuple[PublicKey, ...], *, read_layers: bool = False) -> Verified:
    """Verify an image; what failed for a passing reason was tried again within."""
    verified = verify_image(keychain, image, keys, read_layers=read_layers)
    get_run_logger().info("%s: signed by %s, %d files", verified.image, verified.key[:12], verified.files)
    return verified
