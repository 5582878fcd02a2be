"""Fixtures of all tests: what is started once a session, and only if a test asks for it."""

from tests.prefect_fixtures import prefect_server

__all__ = ["prefect_server"]
