"""Prefect blocks: credentials and settings, and the clients made from them. A block knows no procedure.

Register their types with the server, from the repository's root: ``prefect block register -f blocks/__init__.py``, or
``python -m prefect block register -m blocks``: without ``python -m`` the root is not on the path, and ``-m`` finds no module.
"""

from blocks.cluster import Cluster
from blocks.loading import block_names, load_block
from blocks.model_cache import ModelCache
from blocks.oci_registry import OciRegistry
from blocks.s3_source import S3Source
from blocks.signing_key import SigningKey

__all__ = ["Cluster", "ModelCache", "OciRegistry", "S3Source", "SigningKey", "block_names", "load_block"]
