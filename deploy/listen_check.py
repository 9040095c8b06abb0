"""Check whether a process can listen on a port."""

import errno
import socket


def listen_error(host: str, port: int) -> str | None:
    """Return why a process cannot listen there, or None if it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do: connections of an earlier run that are still closing are no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return "the port is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return None
