"""What a preload tells the catalogue while it runs: Loading with its progress, then Ready or Failed.

The volume is the truth and the catalogue shows it: where the kind is not installed, or may not be written, the preload says
so once and goes on. A version that is Ready stays so until bytes are on their way: a second run that only looks, or is refused
because its source has changed, takes nothing from what lies on the volume.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_run

from modelyard.errors import ClusterUnavailable, ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.failures import NotFound
from modelyard.orders import LoadResult, Progress, VerifyLevel
from modelyard.plans.catalogue import CachedModel, Source
from modelyard.plans.catalogue_status import Content, Finding, Phase, read_and_whole, ready
from modelyard.plans.preload import PreloadPlan
from modelyard.volumes.catalogue import Entry, find, now, project, read_catalogue, write_finding


class Catalogued:
    """The object of one version while a preload works on it."""

    def __init__(self, kube: Kube, model: CachedModel, claim: str, verify: VerifyLevel) -> None:
        self._kube = kube
        self._model = model
        self._claim = claim
        self._verify = verify
        self._entry: Entry | None = None
        self._off = self._warned = False
        self._run = str(this_run.id) if this_run.id else None
        self._attempt(self._look)

    def loading(self) -> None:
        """Say that the load begins; makes the object if there is none."""
        self._attempt(self._begin)

    def progress(self, seen: Progress) -> None:
        """Say how far the load is. To be called every few seconds at most."""
        if not self._is_ready or seen.bytes < seen.total_bytes:
            self._tell(Finding(Phase.LOADING, "Loading", "bytes are on their way", progress=seen, flow_run=self._run))

    def note(self, text: str) -> None:
        """Say why nothing moves."""
        if not self._is_ready:
            self._tell(Finding(Phase.LOADING, "Waiting", text, flow_run=self._run))

    def ready(self, result: LoadResult) -> None:
        """Say that the version is there; damage that was known of stays, unless the bytes were loaded or read by this run."""
        anew = bool(result.fetched_bytes or result.linked_bytes or result.resumed_bytes)
        content = Content(result.bytes, result.files, result.digest, now() if anew else None)
        self._attempt(self._begin)  # somebody may have deleted it meanwhile
        found = ready(content, self._claim, f"{self._model.model}/{self._model.version}", flow_run=self._run)
        read = read_and_whole() if self._verify is VerifyLevel.DIGESTS and not anew else None
        self._tell(replace(found, anew=anew, verification=read))
        if self._entry and (status := self._entry.model.status).get("phase") == Phase.DAMAGED:
            get_run_logger().warning("%s is there, and the catalogue calls it damaged: %s", self._model.model, status.get("message"))

    def failed(self, reason: str, words: str) -> None:
        """Say why there was no load; an object is not made for that."""
        if not self._is_ready:
            self._tell(Finding(Phase.FAILED, reason, words, flow_run=self._run))

    @property
    def _is_ready(self) -> bool:
        return bool(self._entry and self._entry.model.status.get("phase") == Phase.READY)

    def _look(self) -> None:
        self._entry = find(read_catalogue(self._kube, self._model.namespace), self._model)

    def _begin(self) -> None:
        known = self._entry
        if known is None or (known.model.projected and known.model.source is None and self._model.source):
            self._entry = project(self._kube, self._model)
        self.note("waiting for the loader") if known is None or known.model.status.get("phase") != Phase.LOADING else None

    def _tell(self, finding: Finding) -> None:
        self._attempt(lambda: self._write(finding))

    def _write(self, finding: Finding) -> None:
        if self._entry:
            try:
                self._entry = write_finding(self._kube, self._entry, finding)
            except NotFound:  # deleted by a person; deleting it means nothing for the bytes
                self._entry = None

    def _attempt(self, act: Callable[[], None]) -> None:
        if self._off:
            return
        try:
            act()
        except ModelyardError as error:
            self._off = not isinstance(error, ClusterUnavailable)
            if not self._warned:
                get_run_logger().warning("the catalogue does not show this preload, which goes on: %s", error)
            self._warned = True


@contextmanager
def catalogued(kube: Kube, plan: PreloadPlan, source: Source) -> Iterator[Catalogued]:
    """The object of the plan's version for the time of a preload; an error that ends the preload is told there too."""
    cache, model = plan.request.cache, plan.request.model
    version = plan.model.removeprefix(f"{model}@")
    shown = CachedModel("", cache.namespace, model, version, cache.name, projected=True, source=source)
    entry = Catalogued(kube, shown, cache.claim, plan.request.verify)
    try:
        yield entry
    except Exception as error:
        entry.failed(type(error).__name__, str(error))
        raise
    except BaseException:  # the process was told to end
        entry.failed("Stopped", "its run was cancelled or stopped; preload it again to go on where it stopped")
        raise
