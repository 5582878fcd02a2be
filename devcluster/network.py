"""Addresses, and the wire between the host and the cluster's network namespace.

Every cluster has a slot, and every slot its own block 10.(200+slot).0.0/16, so that clusters run side by side:

    10.N.0.0/22     pods; 10.N.0.1 is the bridge: API server, registry, S3, DNS and the pods' gateway
    10.N.96.0/20    Services; 10.N.96.1 is kubernetes.default
    10.N.255.0/30   veth pair; .1 is the host (what pods reach the host at), .2 the cluster

The namespace has no default route: nothing inside can reach beyond the host, by construction.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.commands import run, succeeds
from devcluster.errors import DevclusterError
from devcluster.paths import Layout, write_atomically

BRIDGE = "pods0"
UPLINK = "host0"
SLOTS = 50


@dataclass(frozen=True)
class Block:
    """The addresses of one slot."""

    slot: int

    def _at(self, rest: str) -> str:
        return f"10.{200 + self.slot}.{rest}"

    @property
    def all(self) -> str:
        return self._at("0.0/16")

    @property
    def pods(self) -> str:
        return self._at("0.0/22")

    @property
    def services(self) -> str:
        return self._at("96.0/20")

    @property
    def gateway(self) -> str:
        return self._at("0.1")

    @property
    def first_pod(self) -> str:
        return self._at("0.10")

    @property
    def api_service(self) -> str:
        return self._at("96.1")

    @property
    def host(self) -> str:
        return self._at("255.1")

    @property
    def inside(self) -> str:
        return self._at("255.2")

    @property
    def interface(self) -> str:
        """The host's end of the wire; interface names have at most 15 characters."""
        return f"devcluster{self.slot}"

    @property
    def cgroup(self) -> str:
        """The name of the cluster's cgroup. By slot: it is what is unique on this machine."""
        return f"devcluster{self.slot}"


def read_slot(layout: Layout) -> int | None:
    """The slot of the cluster, or None when it has none yet (or a killed run left nonsense)."""
    try:
        return int(layout.slot_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def block_of(layout: Layout) -> Block:
    """The block the cluster has; DevclusterError when it has none yet."""
    slot = read_slot(layout)
    if slot is None:
        raise DevclusterError(f"{layout.slot_file}: there is no slot; `up` writes it")
    return Block(slot)


def claim_block(layout: Layout) -> Block:
    """The cluster's block; the first `up` picks a free one and keeps it, because stored Services hold its addresses."""
    root = layout.directory.parent
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".slots.lock"):
        slot = read_slot(layout)
        if slot is not None:
            block = Block(slot)
            if user := _user_of(block):
                raise DevclusterError(
                    f"cluster {layout.name!r}: its addresses {block.all} are used by {user}; stop that, "
                    f"or start anew with `python -m devcluster --name {layout.name} down --purge`"
                )
            return block
        taken = {int(path.read_text() or -1) for path in root.glob("*/slot")}
        for slot in range(SLOTS):
            if slot not in taken and not _user_of(Block(slot)):
                write_atomically(layout.slot_file, f"{slot}\n")
                return Block(slot)
    raise DevclusterError(f"all {SLOTS} address blocks 10.200-{199 + SLOTS}.0.0/16 are used; purge a cluster in {root}")


def _user_of(block: Block) -> str | None:
    """The interface that uses some of the block's addresses."""
    wanted = ipaddress.ip_network(block.all)
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        destination = route["dst"]
        if destination != "default" and wanted.overlaps(ipaddress.ip_network(destination, strict=False)):
            return f"{route.get('dev', 'a route')} ({destination})"
    return None


def _owner(layout: Layout) -> str:
    """What marks an interface as this cluster's."""
    return f"devcluster {layout.identity()}"


def connect_host(layout: Layout, block: Block, pid: int) -> None:
    """Lay the wire between the host and the network namespace of `pid`; completes what a killed run began."""
    if not succeeds(["ip", "link", "show", "dev", block.interface]):
        run(["ip", "link", "add", block.interface, "type", "veth", "peer", "name", UPLINK, "netns", str(pid)])
    inside = ["nsenter", "--target", str(pid), "--net", "ip"]
    run([*inside, "addr", "replace", f"{block.inside}/30", "dev", UPLINK])
    run([*inside, "link", "set", UPLINK, "up"])
    run(["ip", "link", "set", block.interface, "alias", _owner(layout)])
    run(["ip", "addr", "replace", f"{block.host}/30", "dev", block.interface])
    run(["ip", "link", "set", block.interface, "up"])
    run(["ip", "route", "replace", block.all, "via", block.inside])


def host_end(layout: Layout, block: Block) -> str | None:
    """The host's end of the wire if it exists and is not another root's."""
    alias = Path("/sys/class/net", block.interface, "ifalias")
    try:
        # Without an alias it is what a killed run had just made.
        return block.interface if alias.read_text().strip() in ("", _owner(layout)) else None
    except OSError:
        return None


def disconnect_host(layout: Layout, block: Block) -> None:
    """Remove the host's end, if it is ours; its route goes with it."""
    if interface := host_end(layout, block):
        # The kernel may be removing it itself at this moment, with the namespace.
        succeeds(["ip", "link", "del", interface])


def make_bridge(block: Block) -> None:
    """Inside the namespace: the bridge the servers bind to; the CNI plugin takes it over as it is."""
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{block.gateway}/22", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    # Without a default route the kernel would refuse Service addresses before kube-proxy's rules see them.
    run(["ip", "route", "add", block.services, "dev", BRIDGE])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file lock; the kernel frees it however the holder ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
