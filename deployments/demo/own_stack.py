"""Ours, where the user names no cluster: the devcluster with its S3 store and registry, and the loader's image in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import devcluster
from deployments.demo.settings import DemoTarget, S3Keys

_PROJECT = Path(__file__).resolve().parents[2]
Step = Callable[[str], AbstractContextManager[None]]
