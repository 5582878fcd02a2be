"""Bringing all of a plan's layers into the registry, several at a time."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from modelyard.errors import RegistryRefused
from modelyard.images.build import ModelLayer
from modelyard.modelcar.gates import Gate
from modelyard.modelcar.layer_reader import LayerReader
from modelyard.modelcar.meter import Meter
from modelyard.modelcar.push import LayerPush, OnNote, copy_blob
from modelyard.modelcar.records import Unfinished, Vouch
from modelyard.modelcar.tuning import Tuning
from modelyard.models import Value
from modelyard.oci.access import Keychain
from modelyard.oci.registry import Repository
from modelyard.orders import Progress
from modelyard.plans.modelcar import Action, LayerPlan, ModelcarPlan
from modelyard.sources.base import Source

OnProgress = Callable[[Progress], None]
_TICK_SECONDS = 0.5


class BuiltLayer(Value):
    """A layer that is in the repository now, and how it came there."""

    layer: ModelLayer
    action: Action
    seconds: float


class Built(Value):
    """All of an image's layers, in the plan's order. ``sent_bytes`` counts what had to be sent twice twice, and so does ``read_bytes``."""

    layers: tuple[BuiltLayer, ...]
    read_bytes: int
    sent_bytes: int
    seconds: float


def build_layers(
    plan: ModelcarPlan,
    source: Source,
    keychain: Keychain,
    tuning: Tuning,
    on_progress: OnProgress,
    on_note: OnNote,
    *,
    vouch: Vouch | None = None,
) -> Built:
    """Bring the plan's layers, and its base's, into the repository; what is there already is not sent. Records are signed by ``vouch``.

    Raises:
        Refused: the plan holds problems, or a file does not pass its gates; its layer is not committed then.
        DigestMismatch: a file is not the one whose SHA-256 its author wrote down; neither is its layer.
        ModelyardError: the first failure that no retry cured. Finished layers are written down; the next build uses them.
    """
    return _Build(plan.approved(), source, keychain, tuning, vouch).run(on_progress, on_note)


@dataclass(slots=True)
class _Build:
    plan: ModelcarPlan
    source: Source
    keychain: Keychain
    tuning: Tuning
    vouch: Vouch | None = None
    notes: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    target: Repository = field(init=False)
    meter: Meter = field(init=False)
    unfinished: Unfinished = field(init=False)
    gate: Gate = field(init=False)
    built: dict[str, BuiltLayer] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        plan, image = self.plan, self.plan.request.image
        self.target = Repository(self.keychain.main, image.repository, self.tuning.patience)
        self.meter = Meter(sum(layer.file_bytes for layer in plan.layers), sum(len(layer.files) for layer in plan.layers))
        self.gate = Gate(self.source, plan.request.weights, plan.digests, self.tuning.patience, self.meter.add_read)
        known = [layer.known for layer in plan.layers if layer.known]
        self.unfinished = Unfinished(self.target, image.tag or "", plan.request.source.uri, known, self.vouch)

    def run(self, on_progress: OnProgress, on_note: OnNote) -> Built:
        with self.target:
            return self._run(on_progress, on_note)

    def _run(self, on_progress: OnProgress, on_note: OnNote) -> Built:
        begun = time.monotonic()
        with ThreadPoolExecutor(self.tuning.layers, thread_name_prefix="layer") as pool:
            try:
                largest_first = sorted(self.plan.layers, key=lambda layer: layer.size, reverse=True)
                jobs: list[Callable[[], object]] = [self._bases, *(partial(self._layer, layer) for layer in largest_first)]
                self._follow({pool.submit(job) for job in jobs}, on_progress, on_note)
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for those that run
                raise
        on_progress(self.meter.progress())
        return Built(
            layers=tuple(self.built[layer.files[0].path] for layer in self.plan.layers),
            read_bytes=self.meter.read,
            sent_bytes=self.meter.sent,
            seconds=round(time.monotonic() - begun, 3),
        )

    def _follow(self, running: "set[Future[object]]", on_progress: OnProgress, on_note: OnNote) -> None:
        """Until all have ended, or one has failed: its error. Notes are told by this thread, which is the caller's."""
        while running:
            done, running = wait(running, _TICK_SECONDS, FIRST_COMPLETED)
            while not self.notes.empty():
                on_note(self.notes.get())
            for each in done:
                each.result()
            on_progress(self.meter.progress())

    def _bases(self) -> None:
        if self.plan.request.base is None:
            return
        base = self.plan.request.base
        blobs = {blob.digest: blob for below in self.plan.bases for blob in below.layers}
        with Repository.of(self.keychain.access(base), base, self.tuning.patience) as origin:
            for blob in blobs.values():
                self.meter.add_blob(copy_blob(origin, self.target, blob))

    def _layer(self, layer: LayerPlan) -> None:
        self._go_on()
        begun = time.monotonic()
        found, action = self._known(layer), layer.action
        if found is None:
            found, action = self._new(layer), Action.NEW
            self.unfinished.add(found)
        self.meter.finish(layer)
        seconds = time.monotonic() - begun
        self.notes.put(
            f"{layer.name}: {action}, {found.digest}" + (f" ({found.size / seconds / 1e6:.1f} MB/s)" if action is Action.NEW else "")
        )
        self.built[layer.files[0].path] = BuiltLayer(layer=found, action=action, seconds=round(seconds, 3))

    def _known(self, layer: LayerPlan) -> ModelLayer | None:
        """The layer without reading its files; None if it is to be read, as it also is where the registry does not mount."""
        if layer.known and layer.origin and not self.target.mount(layer.known.digest, layer.origin):
            self.notes.put(f"{layer.name}: the registry does not mount it from {layer.origin}; it is read and sent")
            return None
        return layer.known

    def _new(self, layer: LayerPlan) -> ModelLayer:
        reader = LayerReader(layer.files, self.source, self.gate, self.tuning, self.meter.add_read)
        return LayerPush(self.target, reader, layer.name, lambda count, at: self._sent(layer, count, at), self.notes.put).run()

    def _sent(self, layer: LayerPlan, count: int, position: int) -> None:
        self.meter.add_sent(layer, count, position)
        self._go_on()

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise RegistryRefused("stopped: another layer failed")
