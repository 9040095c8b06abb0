"""Which TCP ports the local stack listens on."""

import errno
import random
import socket
from collections.abc import Iterable

# Below the ports that Linux and macOS give to outgoing connections: one that is chosen here is used only a moment
# later, and nobody's connection may take it meanwhile.
_CHOICE = range(20_000, 32_000)


def free_ports(preferred: Iterable[int], host: str = "127.0.0.1") -> list[int]:
    """Return a port for each preferred one: itself, or any free one where it is taken or 0."""
    held: list[socket.socket] = []  # held until all are chosen, so that none is chosen twice
    try:
        held.extend(_listener(host, port) for port in preferred)
        return [listener.getsockname()[1] for listener in held]
    finally:
        for listener in held:
            listener.close()


def _listener(host: str, preferred: int) -> socket.socket:
    for port in (preferred, *random.sample(_CHOICE, len(_CHOICE))):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port:
                listener.bind((host, port))
                listener.listen()
                return listener
        except (OSError, OverflowError):
            pass
        listener.close()
    raise OSError(errno.EADDRINUSE, "no port is free")
