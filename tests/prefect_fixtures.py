"""A real Prefect server, started once a session.

Half of a server's first start is the migration of its database, so a migrated one is kept in pytest's cache directory, by
Prefect's version, and each session works on a copy. It is ``prefect server start``, with all its services, and not Prefect's
ephemeral server: that one evaluates no automations, and starts no faster.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from tests.services.ports import free_port

# Before anything imports Prefect: it reads these while it is imported.
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

STARTUP_SECONDS = 300


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a running server's API; Prefect's client, here and in child processes, uses it while the session lasts.

    Nothing of the developer's own profile or database is read or written.
    """
    home = tmp_path_factory.mktemp("prefect")
    template = _migrated_database(pytestconfig)
    shutil.copy(template, home / "prefect.db")
    url = f"http://127.0.0.1:{free_port()}/api"
    environment = _environment(home) | {"PREFECT_API_URL": url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with _running_server(url, home / "server.log"), _client_settings(environment):
            yield url


def _environment(home: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }


def _migrated_database(config: pytest.Config) -> Path:
    """An empty database with the tables of the installed Prefect; made once, some 12 s."""
    assert config.cache is not None, "run pytest with its cache provider: the migrated database is kept there"
    kept = config.cache.mkdir("prefect-server") / f"{version('prefect')}.db"
    if not kept.exists():
        scratch = config.cache.mkdir(f"prefect-server-{os.getpid()}")
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env=os.environ | _environment(scratch), check=True, capture_output=True, timeout=STARTUP_SECONDS)
        (scratch / "prefect.db").rename(kept)
        shutil.rmtree(scratch)
    return kept


@contextmanager
def _running_server(url: str, log: Path) -> Iterator[None]:
    port = url.removesuffix("/api").rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            _wait_until_healthy(f"{url}/health", server, log)
            yield
        finally:
            server.terminate()
            try:
                server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the Prefect server did not answer at {url} (exit code {server.poll()}):\n{log.read_text()[-3000:]}")


@contextmanager
def _client_settings(environment: dict[str, str]) -> Iterator[None]:
    """The environment's values as this process's settings too: another test may have imported Prefect before they were set."""
    from prefect import settings  # noqa: PLC0415 (after the environment is set)
    from prefect.context import _temporary_global_settings_context, get_settings_context  # noqa: PLC0415
    from prefect.events.worker import EventsWorker  # noqa: PLC0415

    updates = {getattr(settings, name): value for name, value in environment.items()}
    # The second context is for threads that Prefect starts: they inherit no context variables.
    with settings.temporary_settings(updates), _temporary_global_settings_context(get_settings_context()):
        yield
        EventsWorker.drain_all()  # else the interpreter waits at its end for a server that is gone
