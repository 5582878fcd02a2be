"""Ports for servers that bind them later: nobody else gets one meanwhile, nor while a server is down between two starts."""

import secrets
import socket

#: Below those that the kernel takes for connections that go out (from 32768 on), and below the node ports of Kubernetes.
_PORTS = range(20_000, 30_000)
#: Open until this process ends: a second one cannot bind their names, in this run or in another one beside it.
_held: list[socket.socket] = []


def free_port() -> int:
    """A port that nothing listens on, and that no other test gets."""
    while True:
        port = secrets.choice(_PORTS)
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0port-{port}-of-modelyard's-tests")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: remains of ended connections do not matter
                probe.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
        else:
            _held.append(holder)
            return port
