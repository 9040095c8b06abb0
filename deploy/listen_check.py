"""Whether a process can listen on a port."""

import errno
import socket


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
