"""What the cluster tests share beside fixtures."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config.kube_config import load_kube_config

import devcluster
from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube
from modelyard.models import Listing, ModelRef, S3Location
from modelyard.orders import LoadSpec
from tests.manifests import rules

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Manifest = dict[str, Any]
#: For what comes in a moment: three workers, three clusters and two cores make it a minute or more.
SECONDS = 300.0


def connect(kubeconfig: str, **settings: Any) -> Kube:
    """A client of its own, with ``settings`` of the official client's configuration (``impersonate`` makes it another account)."""
    impersonate = settings.pop("impersonate", None)
    configuration = Configuration()
    load: Any = load_kube_config  # its types are left out
    load(config_file=kubeconfig, client_configuration=configuration)
    for name, value in settings.items():
        setattr(configuration, name, value)
    return Kube(ApiClient(configuration, *(("Impersonate-User", impersonate) if impersonate else ())))


def wait_until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    """Until ``true`` holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def make_namespace(kube: Kube, name: str) -> None:
    """A namespace that takes pods: the API server refuses them until a controller has made its service account."""
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_until(lambda: kube.get("ServiceAccount", "default", name))


def until_allowed(request: Callable[[], object]) -> None:
    """Until ``request`` is not refused any more: the API server learns of a role and its binding a moment after it took them."""

    def allowed() -> bool:
        try:
            request()
        except ClusterRefused:
            return False
        return True

    wait_until(allowed)


def until_refused(kube: Kube, manifest: Manifest, words: str) -> None:
    """Until the API server refuses ``manifest`` so: of a quota, or of a namespace's level, it learns a moment after it took it."""

    def refused() -> bool:
        try:
            kube.create(manifest, dry_run=True)
        except ClusterRefused as error:
            return words in str(error)
        return False

    wait_until(refused)


def config_map(name: str, namespace: str, **data: str) -> Manifest:
    """The smallest object there is."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def cache_spec(namespace: str, **settings: Any) -> CacheSpec:
    """A cache of the devcluster's shared class."""
    fixed = {"name": "main", "namespace": namespace, "base_name": "cache", "storage_size": 2**20, "storage_class_name": "devcluster-shared"}
    return CacheSpec.model_validate({**fixed, "loader_image": "busybox:1.36", **settings})


def load_spec(*, name: str = "llama", version: str = "v1", digest: str = "sha256:0a") -> LoadSpec:
    """An order to load a small model."""
    source = S3Location(bucket="models", prefix=name)
    return LoadSpec(model=ModelRef(name=name, version=version), source=source, listing=Listing(digest=digest, files=2, bytes=30))


def limited(kube: Kube, kubeconfig: str, namespace: str) -> Kube:
    """An account that has the rights of a cache's Role in ``namespace`` and nothing elsewhere."""
    group, metadata, user = "rbac.authorization.k8s.io", {"name": "preload", "namespace": namespace}, f"limited-{namespace}"
    head = {"apiVersion": f"{group}/v1", "metadata": metadata}
    kube.create({**head, "kind": "Role", "rules": rules("cache", "modelyard-cache")})
    role = {"apiGroup": group, "kind": "Role", "name": "preload"}
    kube.create({**head, "kind": "RoleBinding", "roleRef": role, "subjects": [{"apiGroup": group, "kind": "User", "name": user}]})
    account = connect(kubeconfig, impersonate=user)
    until_allowed(lambda: account.list("Pod", namespace))
    return account


def s3_client(cluster: devcluster.Cluster) -> "S3Client":
    """The cluster's S3 server, as its owner."""
    access, secret = cluster.s3_keys()
    return boto3.client(
        "s3",
        endpoint_url=cluster.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        verify=str(cluster.ca_bundle),
        config=Config(s3={"addressing_style": "path"}),
    )


class Wire:
    """A TCP relay to the API server that can be cut: what a restart of the server looks like from here."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = self._bound(0)
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []

    @staticmethod
    def _bound(port: int) -> socket.socket:
        """Not listening yet: until it does, it holds the port, which would be anybody's else, and refuses who connects."""
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", port))
        return bound

    def serve(self) -> None:
        """Accept until cut."""
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections and break those that are open."""
        listener, self._listener = self._listener, self._bound(self.port)
        for each in (listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def mend(self) -> None:
        """Serve again on the same port."""
        self.serve()

    def close(self) -> None:
        """Cut, and let go of the port."""
        self.cut()
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def wired(kubeconfig: str, kube: Kube) -> Iterator[tuple[Kube, Wire]]:
    """The cluster through a wire that the test may cut."""
    server = urlsplit(kube.host)
    wire = Wire((str(server.hostname), int(server.port or 443)))
    wire.serve()
    try:
        yield connect(kubeconfig, host=f"https://127.0.0.1:{wire.port}", tls_server_name=server.hostname), wire
    finally:
        wire.close()
