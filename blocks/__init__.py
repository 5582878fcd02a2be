"""Prefect blocks: credentials and settings, and the clients made from them. A block knows no procedure.

Register their types with the server, from the repository's root: ``python -m prefect block register -m blocks``.
"""

from blocks.cluster import Cluster
from blocks.loading import load_block
from blocks.model_cache import ModelCache
from blocks.s3_source import S3Source

__all__ = ["Cluster", "ModelCache", "S3Source", "load_block"]
