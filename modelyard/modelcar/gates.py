"""What a layer's files must pass before the layer is committed: their author's digests, and no pickle that could do harm.

The same rules as a loader's, on bytes that are on their way. A small file is looked into as it lies in memory. Of a large one the
beginning tells, as it comes by, whether it has to be looked into at all: then its pickles are read from the source, pinned to the
bytes that are being sent, before anything more of it is. So no manifest ever names a file that was refused.
"""

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelyard.errors import Refused
from modelyard.modelcar.source_bytes import open_at_source
from modelyard.models import FileRecord, SourceFile, WeightPolicy
from modelyard.oci.http import Patience
from modelyard.plans.digests import compare_sums
from modelyard.plans.weight_formats import weight_refusal
from modelyard.sources.base import Source
from modelyard.weights.scan import HEAD_BYTES, Verdict, may_carry, scan


@dataclass(frozen=True, slots=True)
class Gate:
    """One build's rules. ``digests``: the SHA-256 (hex) that files must have, by path; ``on_read`` is told of bytes read to look."""

    source: Source
    weights: WeightPolicy
    digests: Mapping[str, str]
    patience: Patience
    on_read: Callable[[int], None]
    _scanning: threading.Lock = field(default_factory=threading.Lock)  # one at a time: a pickle may take 200 MB to be read

    def look_into(self, file: SourceFile, body: bytes) -> Verdict:
        """What a file is that is here as a whole.

        Raises:
            Refused: the policy is against it.
        """
        if not may_carry(file.path, body[:HEAD_BYTES]):
            return Verdict()
        with self._scanning:
            verdict = scan(io.BytesIO(body), file.path.rpartition("/")[2], file.size)
        return self._held(file, verdict)

    def look_at(self, file: SourceFile, head: bytes) -> Verdict:
        """What a file is that begins with ``head``, read from the source as far as that needs.

        Raises:
            Refused: the policy is against it.
            ModelyardError: the source does not give it.
        """
        if not may_carry(file.path, head):
            return Verdict()
        with self._scanning, open_at_source(self.source, file, self.patience, self.on_read) as opened:
            verdict = scan(opened, file.path.rpartition("/")[2], file.size)
        return self._held(file, verdict)

    def _held(self, file: SourceFile, verdict: Verdict) -> Verdict:
        if problem := weight_refusal(file.path, verdict.dangers, self.weights, pickled=verdict.pickled):
            raise Refused([problem])
        return verdict

    def compare(self, record: FileRecord) -> None:
        """Hold a file that was read to its end against its author's digest.

        Raises:
            DigestMismatch: it is another.
        """
        if expected := self.digests.get(record.path):
            compare_sums({record.path: expected}, {record.path: record.sha256}, all_listed=False)
