"""A real one-node Kubernetes without Docker, with S3, a registry and storage classes. See README.md beside this file."""

from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError
from devcluster.lifecycle import connect, down, up

__all__ = ["Cluster", "DevclusterError", "connect", "down", "up"]
