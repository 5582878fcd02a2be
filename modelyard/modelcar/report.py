"""What a build did, told to people and to other flows."""

from modelyard.modelcar.build import Built
from modelyard.modelcar.publish import Modelcar
from modelyard.models import Value
from modelyard.plans.modelcar import Action, ModelcarPlan
from modelyard.quantities import format_bytes, format_duration


class ModelcarReport(Value):
    """A build's result; without ``image`` it is what would be done."""

    plan: str
    problems: tuple[str, ...] = ()
    image: Modelcar | None = None
    new: int = 0
    reused: int = 0
    mounted: int = 0
    read_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0


def report_of(plan: ModelcarPlan, built: Built | None = None, image: Modelcar | None = None) -> ModelcarReport:
    """The flow's result."""
    actions = [each.action for each in (built.layers if built else plan.layers)]
    return ModelcarReport(
        plan=plan.digest,
        problems=tuple(str(problem) for problem in plan.problems),
        image=image,
        new=actions.count(Action.NEW),
        reused=actions.count(Action.REUSED),
        mounted=actions.count(Action.MOUNTED),
        read_bytes=built.read_bytes if built else 0,
        sent_bytes=built.sent_bytes if built else 0,
        seconds=built.seconds if built else 0.0,
    )


def summary(built: Built) -> str:
    """What was done, in one line."""
    total = sum(each.layer.size for each in built.layers)
    known = [each for each in built.layers if each.action is not Action.NEW]
    text = f"{len(built.layers)} layers, {format_bytes(total)}"
    if not built.read_bytes:
        return f"{text}: all of them were there; nothing was read from the source"
    rate = f", {built.read_bytes / built.seconds / 1e6:.0f} MB/s" if built.seconds else ""
    text += f": {format_bytes(built.read_bytes)} read, {format_bytes(built.sent_bytes)} sent in {format_duration(built.seconds)}{rate}"
    return f"{text}; {len(known)} used again ({format_bytes(sum(each.layer.size for each in known))})" if known else text


def describe_result(built: Built, image: Modelcar) -> str:
    """The result as Markdown."""
    platforms = "\n".join(f"| {platform} | `{digest}` |" for platform, digest in image.platforms.items())
    moved = f"\n\nThe tag was moved from `{image.moved_from}`." if image.moved_from else ""
    signed = f"\n\nSigned by key `{image.signed_by}`." if image.signed_by else ""
    notes = "".join(f"\n\n{note}." for note in image.notes)
    tagged = image.image.partition("@")[0]
    return (
        f"# {tagged}\n\n{summary(built)}\n\nServe it as `oci://{tagged}`; by digest: `{image.image}`\n\n"
        f"| platform | manifest |\n|---|---|\n{platforms}\n\n"
        f"Digest of the files (SHA-256 of their SHA256SUMS): `{image.content_digest}`{signed}{moved}{notes}\n"
    )


def layer_rows(built: Built) -> list[dict[str, str]]:
    """The layers as a table."""
    return [
        {
            "first file": each.layer.files[0].path,
            "files": str(len(each.layer.files)),
            "size": format_bytes(each.layer.size),
            "how": str(each.action),
            "seconds": f"{each.seconds:.1f}",
            "digest": each.layer.digest,
        }
        for each in built.layers
    ]
