"""The choice of TCP ports for a local run."""

import errno
import random
import socket
from collections.abc import Iterable

# Below the range for outgoing connections on Linux and macOS: a chosen port is used only a moment later, and no
# connection may take it in between.
_CHOICE = range(20_000, 32_000)

_chosen: set[int] = set()  # by this process: it may choose again before it has started the server of an earlier port


def free_ports(preferred: Iterable[int]) -> list[int]:
    """Return a port of 127.0.0.1 for each preferred one: the same if it is free, else any free port. 0 means any."""
    listeners: list[socket.socket] = []  # open until all are chosen, so that none is chosen twice
    try:
        listeners.extend(map(_listener, preferred))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def _listener(preferred: int) -> socket.socket:
    unused = [port for port in _CHOICE if port not in _chosen]
    for port in (preferred, *random.sample(unused, len(unused)), *_chosen):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port:
                listener.bind(("127.0.0.1", port))
                listener.listen()
                _chosen.add(port)
                return listener
        except (OSError, OverflowError):
            pass
        listener.close()
    raise OSError(errno.EADDRINUSE, "no port is free")
