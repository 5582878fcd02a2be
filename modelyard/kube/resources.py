"""The kinds we touch, and where the API keeps them: a table, so that no call has to ask the server first."""

from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

Manifest: TypeAlias = dict[str, Any]
"""An object as the API spells it."""

GROUP = "modelyard.dev"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind's place in the API."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool

    @property
    def group(self) -> str:
        """The API group, empty for the core API."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of one object, or of the collection (in all namespaces where ``namespace`` is None)."""
        root = "/apis/" if self.group else "/api/"
        segments = ["namespaces", namespace] if self.namespaced and namespace else []
        segments += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return root + "/".join([self.api_version, *(quote(segment, safe="") for segment in segments)])


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object by name; as text it is the subject of messages and reports."""

    kind: str
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


_TABLE = (
    ("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    ("Namespace", "v1", "namespaces", False),
    ("ResourceQuota", "v1", "resourcequotas", True),
    ("StorageClass", "storage.k8s.io/v1", "storageclasses", False),
    ("ServiceAccount", "v1", "serviceaccounts", True),
    ("Role", "rbac.authorization.k8s.io/v1", "roles", True),
    ("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings", True),
    ("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles", False),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    ("ConfigMap", "v1", "configmaps", True),
    ("Secret", "v1", "secrets", True),
    ("PersistentVolume", "v1", "persistentvolumes", False),
    ("PersistentVolumeClaim", "v1", "persistentvolumeclaims", True),
    ("Job", "batch/v1", "jobs", True),
    ("Deployment", "apps/v1", "deployments", True),
    ("StatefulSet", "apps/v1", "statefulsets", True),
    ("CronJob", "batch/v1", "cronjobs", True),
    ("Deployment", "apps/v1", "deployments", True),
    ("ReplicaSet", "apps/v1", "replicasets", True),
    ("StatefulSet", "apps/v1", "statefulsets", True),
    ("DaemonSet", "apps/v1", "daemonsets", True),
    ("ReplicationController", "v1", "replicationcontrollers", True),
    ("Rollout", "argoproj.io/v1alpha1", "rollouts", True),
    ("KnativeService", "serving.knative.dev/v1", "services", True),  # its kind is Service, as is the core API's
    ("KnativeRevision", "serving.knative.dev/v1", "revisions", True),
    ("LLMInferenceService", "serving.kserve.io/v1alpha1", "llminferenceservices", True),
    ("MLService", "tensorstack.dev/v1beta1", "mlservices", True),
    ("SimpleMLService", "tensorstack.dev/v1beta1", "simplemlservices", True),
    ("CachedModel", f"{GROUP}/v1alpha1", "cachedmodels", True),
    ("InferenceService", "serving.kserve.io/v1beta1", "inferenceservices", True),
    ("Pod", "v1", "pods", True),
    ("Node", "v1", "nodes", False),
    ("Event", "v1", "events", True),
)
_RESOURCES = {row[0]: Resource(*row) for row in _TABLE}


def resource(kind: str) -> Resource:
    """Where ``kind`` lives.

    Raises:
        KeyError: the table has no such kind.
    """
    return _RESOURCES[kind]


def ref_of(manifest: Manifest) -> ObjectRef:
    """The object that ``manifest`` describes."""
    metadata = manifest["metadata"]
    return ObjectRef(manifest["kind"], metadata["name"], metadata.get("namespace"))
