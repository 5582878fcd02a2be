"""The builder as a process of its own, as the flow runs it: plan, layers, image: ``python -m benchmarks.modelcar_build REQUEST``.

Its last line is JSON; ``writable`` are the mounts that it could have written to. The benchmark gives it none.
"""

import json
import os
import sys
import time
from pathlib import Path

from modelyard.modelcar.build import build_layers
from modelyard.modelcar.publish import publish
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.models import S3Location
from modelyard.oci.access import Access, Keychain
from modelyard.plans.modelcar import ModelcarRequest, plan_modelcar
from modelyard.sources.s3 import S3Source, s3_client


def main(request: ModelcarRequest) -> None:
    """Build the image, and tell how."""
    begun = time.monotonic()
    keychain = Keychain(Access(request.image.host, plain_http=True))
    if not isinstance(request.source, S3Location):
        raise SystemExit(f"{request.source.uri}: the benchmark reads from S3")
    source = S3Source(request.source, s3_client(request.source))
    plan = plan_modelcar(request, read_facts(request, source, keychain)).approved()
    planned = time.monotonic()
    built = build_layers(plan, source, keychain, Tuning(), lambda _: None, print)
    pushed = time.monotonic()
    image = publish(plan, built, keychain)
    told = {
        "image": image.image,
        "read_bytes": built.read_bytes,
        "sent_bytes": built.sent_bytes,
        "layers": {each.layer.files[0].path: f"{each.action} {each.seconds:.2f} s" for each in built.layers},
        "plan_s": round(planned - begun, 3),
        "layers_s": round(pushed - planned, 3),
        "publish_s": round(time.monotonic() - pushed, 3),
        "writable": _writable(),
    }
    print(json.dumps(told))


def _writable() -> list[str]:
    """Mounts that take writes; root's rights do not help against a read-only mount."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return sorted({mount for mount in mounts if os.access(mount, os.W_OK)})


if __name__ == "__main__":
    main(ModelcarRequest.model_validate_json(sys.argv[1]))
