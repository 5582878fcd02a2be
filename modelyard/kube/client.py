"""A cluster's API in the few verbs we use, on dicts in the API's own spelling.

It stands on the official client for connection and credentials only (kubeconfig, service-account token and its renewal,
TLS, proxy): its generated classes would hide fields that a newer server has, and its own retries would hide outages.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode

import urllib3
from kubernetes.client.api_client import ApiClient

from modelyard.kube.failures import Answer, BadRequest, Expired, NotFound, failure, unreachable
from modelyard.kube.killpoints import written
from modelyard.kube.resources import Manifest, ObjectRef, ref_of, resource

FIELD_MANAGER = "modelyard"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0

_PAGE = 500
_FIRST_ERROR = 400
Manifests: TypeAlias = list[Manifest]
Propagation = Literal["Background", "Foreground", "Orphan"]
Event: TypeAlias = tuple[str, Manifest]
Query: TypeAlias = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Collection:
    """What a list call gives: the objects, and the version of the collection that a watch continues from."""

    items: Manifests
    resource_version: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request before it is sent. ``verb`` is the word for messages."""

    verb: str
    method: str
    ref: ObjectRef
    subresource: str | None = None
    query: Query = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    read_seconds: float = READ_SECONDS

    @property
    def writes(self) -> bool:
        """Whether the cluster is another one afterwards."""
        return self.method != "GET" and not self.query.get("dryRun")

    @property
    def target(self) -> str:
        """Path and query of the URL."""
        query = urlencode({name: value for name, value in self.query.items() if value is not None})
        path = resource(self.ref.kind).path(self.ref.namespace, self.ref.name or None, self.subresource)
        return f"{path}?{query}" if query else path


class Kube:
    """One cluster, reached with one account.

    Every method raises ``ClusterUnavailable`` where another try may help and ``ClusterRefused`` where it cannot.
    """

    def __init__(self, api_client: ApiClient) -> None:
        connection: Any = api_client  # the client's published types leave its attributes out
        self._api = connection

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            return self.send(Call("get", "GET", ObjectRef(kind, name, namespace)))
        except NotFound:
            return None

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create the object.

        Raises:
            AlreadyExists: there is one of this name.
        """
        ref = ref_of(manifest)
        collection = ObjectRef(ref.kind, "", ref.namespace)
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All" if dry_run else None}
        return self.send(Call("create", "POST", collection, query=query, body=manifest), subject=ref)

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "Background",
        uid: str | None = None,
        resource_version: str | None = None,
        dry_run: bool = False,
    ) -> bool:
        """Ask for the object's deletion; False if it was gone already.

        Raises:
            Changed: there is an object of this name with another ``uid`` or ``resource_version``.
        """
        conditions = {"uid": uid, "resourceVersion": resource_version}
        held = {name: value for name, value in conditions.items() if value is not None}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation, **({"preconditions": held} if held else {})}
        try:
            self.send(Call("delete", "DELETE", ObjectRef(kind, name, namespace), query={"dryRun": "All" if dry_run else None}, body=body))
        except NotFound:
            return False
        return True

    def patch_merge(self, kind: str, name: str, namespace: str | None, patch: Manifest, *, subresource: str | None = None) -> Manifest:
        """Change fields by JSON merge patch; a ``metadata.uid`` or ``resourceVersion`` in it is a precondition (``Changed``)."""
        ref = ObjectRef(kind, name, namespace)
        query = {"fieldManager": FIELD_MANAGER}
        return self.send(Call("patch", "PATCH", ref, subresource, query, patch, "application/merge-patch+json"))

    def pod_log(
        self, name: str, namespace: str, *, tail_lines: int | None = None, since_seconds: int | None = None, container: str | None = None
    ) -> str:
        """The end of a container's log; empty while it has not started, and when the pod is gone."""
        query = {"tailLines": tail_lines, "sinceSeconds": since_seconds, "container": container}
        call = Call("read log of", "GET", ObjectRef("Pod", name, namespace), "log", query)
        try:
            return self._answer(call).decode(errors="replace")
        except (NotFound, BadRequest):
            return ""

    def watch(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
        timeout_seconds: int = 30,
    ) -> Iterator[Event]:
        """What happens to the objects, as (ADDED | MODIFIED | DELETED | BOOKMARK, object), until the server ends it.

        Raises:
            Expired: ``resource_version`` is too old; list again.
        """
        query: Query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": timeout_seconds,
        }
        call = Call("watch", "GET", ObjectRef(kind, "", namespace), query=query, read_seconds=timeout_seconds + READ_SECONDS)
        for line in self._lines(call):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise failure(call.verb, call.ref, Answer(int(event["object"].get("code", 500)), line, {}))
            yield event["type"], event["object"]

    def list(
        self, kind: str, namespace: str | None = None, *, label_selector: str | None = None, field_selector: str | None = None
    ) -> Manifests:
        """The objects, in all namespaces where ``namespace`` is None."""
        return self.collection(kind, namespace, label_selector=label_selector, field_selector=field_selector).items

    def collection(
        self, kind: str, namespace: str | None = None, *, label_selector: str | None = None, field_selector: str | None = None
    ) -> Collection:
        """The objects with their collection's version, read page by page; a page that came too late starts the list over."""
        query: Query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        try:
            return self._pages(ObjectRef(kind, "", namespace), {**query, "limit": _PAGE})
        except Expired:
            return self._pages(ObjectRef(kind, "", namespace), query)

    def _pages(self, ref: ObjectRef, query: Query) -> Collection:
        head = {"apiVersion": resource(ref.kind).api_version, "kind": ref.kind}  # which the items of a list do not carry
        items: Manifests = []
        more: str | None = None
        while True:
            page = self.send(Call("list", "GET", ref, query={**query, "continue": more}))
            items += [{**head, **item} for item in page["items"]]
            if not (more := page["metadata"].get("continue")):
                return Collection(items, page["metadata"]["resourceVersion"])

    def send(self, call: Call, *, subject: ObjectRef | None = None) -> Manifest:
        """The parsed answer to ``call``; ``subject`` names the object in errors where the path does not."""
        parsed: Manifest = json.loads(self._answer(call, subject))
        return parsed

    def _answer(self, call: Call, subject: ObjectRef | None = None) -> bytes:
        with self._answered(call):
            return self._open(call, subject or call.ref).data

    def _lines(self, call: Call) -> Iterator[bytes]:
        """The lines of a streamed answer."""
        with self._answered(call):
            response = self._open(call, call.ref)
            rest = b""
            try:
                for chunk in response.stream(None):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from filter(None, lines)
            finally:
                response.close()

    def _open(self, call: Call, subject: ObjectRef) -> urllib3.BaseHTTPResponse:
        response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
            call.method,
            self.host + call.target,
            body=None if call.body is None else json.dumps(call.body).encode(),
            headers=self._headers(call),
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=call.read_seconds),
            retries=False,  # an outage is told to the caller, who knows whether a second try is safe
            preload_content=False,
        )
        if response.status < _FIRST_ERROR:
            if call.writes:
                written()
            return response
        raise failure(call.verb, subject, Answer(response.status, response.data, response.headers))

    def _headers(self, call: Call) -> dict[str, str]:
        credentials = self._api.configuration.auth_settings().values()  # renews a token that is about to expire
        return {
            "Accept": "application/json, */*;q=0.8",
            "Content-Type": call.content_type,
            **self._api.default_headers,
            **{setting["key"]: setting["value"] for setting in credentials if setting["in"] == "header"},
        }

    @contextmanager
    def _answered(self, call: Call) -> Iterator[None]:
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(call.verb, call.ref, self.host, error) from error
