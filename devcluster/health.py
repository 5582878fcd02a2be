"""Is the cluster ready? Asked from the host, the way its users reach it."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any

from devcluster.errors import StartError
from devcluster.network import Block
from devcluster.paths import Layout
from devcluster.pki import NODE
from devcluster.probes import client_context
from devcluster.processes import find_supervisor, read_status

LOG_LINES = 12
HOPELESS = 7
"""Restarts of a component that has not once been ready, about half a minute of them, after which waiting is given up."""


@dataclass(frozen=True)
class Waiting:
    """What a cluster that is not ready waits for; the component is whose log tells more."""

    component: str
    reason: str
    hopeless: bool = False


def check(layout: Layout, block: Block) -> Waiting | None:
    """The first thing that is not ready, or None."""
    status = read_status(layout)
    if not status:
        return Waiting("supervisor", "has started no component yet")
    for component, state in status.items():
        if not state["ready"]:
            restarts = state["restarts"]
            return Waiting(component, f"is not ready (restarts: {restarts})", hopeless=restarts >= HOPELESS)
    try:
        return _check_node(layout, block)
    except (OSError, http.client.HTTPException, ssl.SSLError, ValueError) as error:
        return Waiting("kube-apiserver", f"does not answer at {block.gateway}:6443: {error}")


def _check_node(layout: Layout, block: Block) -> Waiting | None:
    node = _get(layout, block, f"/api/v1/nodes/{NODE}")
    conditions = {entry["type"]: entry for entry in node.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready", {"status": "unknown", "message": "not registered"})
    if ready["status"] != "True":
        return Waiting("kubelet", f"node not Ready: {ready.get('message')}")
    if _get(layout, block, "/api/v1/namespaces/default/serviceaccounts/default").get("kind") != "ServiceAccount":
        return Waiting("kube-controller-manager", "has not made the default ServiceAccount")
    return None


def _get(layout: Layout, block: Block, path: str) -> dict[str, Any]:
    connection = http.client.HTTPSConnection(block.gateway, 6443, timeout=5, context=client_context(layout.pki))
    try:
        connection.request("GET", path)
        body: dict[str, Any] = json.loads(connection.getresponse().read())
        return body
    finally:
        connection.close()


def wait_ready(layout: Layout, block: Block, timeout: float) -> None:
    """Return when all is ready; StartError with the log of what is not."""
    deadline = time.monotonic() + timeout
    while waiting := check(layout, block):
        if find_supervisor(layout) is None:
            raise StartError(_failure(layout, Waiting("supervisor", "ended"), 0))
        if waiting.hopeless or time.monotonic() > deadline:
            raise StartError(_failure(layout, waiting, 0 if waiting.hopeless else timeout))
        time.sleep(0.1)


def _failure(layout: Layout, waiting: Waiting, timeout: float) -> str:
    log = layout.log(waiting.component)
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else ["(no log)"]
    after = f" after {timeout:.0f} s" if timeout else ""
    return f"cluster {layout.name!r}: {waiting.component} {waiting.reason}{after}; the end of {log}:\n" + "\n".join(
        f"    {line}" for line in lines
    )
