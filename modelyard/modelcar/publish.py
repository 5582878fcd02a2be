"""The image of a build's layers: its documents by digest, and the tag last. Until then nobody sees anything of it."""

from collections.abc import Callable

from modelyard.errors import TagTaken
from modelyard.images.descriptors import INDEX, MANIFEST, digest_of
from modelyard.images.references import Reference
from modelyard.modelcar.build import Built
from modelyard.modelcar.records import Unfinished
from modelyard.models import Value, content_digest
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.plans.modelcar import ModelcarPlan

#: Signs the image of a digest, and gives the key's hint.
Sign = Callable[[Reference], str]


class Modelcar(Value):
    """An image in the registry. ``content_digest`` is the one that a preload of the same files has; ``moved_from`` what the tag named."""

    image: str
    digest: str
    platforms: dict[str, str]
    content_digest: str
    moved_from: str | None = None
    signed_by: str | None = None
    notes: tuple[str, ...] = ()


def publish(plan: ModelcarPlan, built: Built, keychain: Keychain, patience: Patience | None = None, sign: Sign | None = None) -> Modelcar:
    """Put the image's configs, manifests and index, sign it, then let the tag name it; all of it may be there already.

    Raises:
        TagTaken: the tag names another image than it did when the plan was made, and than this one.
        ModelyardError: the registry does not take it.
    """
    image = plan.image([each.layer for each in built.layers])
    tag = plan.request.image.tag or ""
    with Repository(keychain.main, plan.request.image.repository, patience) as target:
        for config in image.configs:
            target.put_blob(config)
        for content in image.manifests:
            target.put_manifest(MANIFEST, content, digest_of(content))
        target.put_manifest(INDEX, image.index, image.digest)
        signed_by = sign(plan.request.image.at(digest=image.digest)) if sign else None  # whoever demands it finds no tag without it
        now = target.digest(tag)
        if now not in {plan.tag_digest, image.digest}:
            raise TagTaken(
                f"{plan.request.image}: names {now} now, which is not what it named when the build began; {target}@{image.digest} is there"
            )
        if now != image.digest:
            if now and not plan.request.move_tag:
                raise TagTaken(
                    f"{plan.request.image}: names {now} already; {target}@{image.digest} is there: choose another tag, or allow the move"
                )
            target.put_manifest(INDEX, image.index, tag)
        removed = Unfinished(target, tag, plan.request.source.uri, ()).remove()
    return Modelcar(
        image=str(plan.request.image.at(tag=tag, digest=image.digest)),
        digest=image.digest,
        platforms={str(base.platform): digest_of(content) for base, content in zip(plan.bases, image.manifests, strict=True)},
        content_digest=content_digest(record for each in built.layers for record in each.layer.files),
        moved_from=now if now != image.digest else None,
        signed_by=signed_by,
        notes=() if removed else ("the registry does not delete: the record of the build stays beside the tag, and does no harm",),
    )
