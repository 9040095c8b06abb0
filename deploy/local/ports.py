"""Which TCP ports the local stack listens on."""

import errno
import socket
from collections.abc import Iterable, Iterator


def why_not(host: str, port: int) -> str | None:
    """Say why nothing can listen there, or None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do: what an earlier run's closed connections still hold is no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return "another program uses it" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return None


def free_ports(preferred: Iterable[int], host: str = "127.0.0.1") -> list[int]:
    """Return a port for each preferred one: itself, or any free one where it is taken."""
    return list(_choose(preferred, host))


def _choose(preferred: Iterable[int], host: str) -> Iterator[int]:
    held: list[socket.socket] = []  # held until all are chosen, so that none is chosen twice
    try:
        for port in preferred:
            listener = socket.socket()
            held.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except (OSError, OverflowError):
                listener.bind((host, 0))
            listener.listen()
            yield listener.getsockname()[1]
    finally:
        for listener in held:
            listener.close()
