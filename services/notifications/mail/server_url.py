"""What the URLs of mail servers have in common: `scheme://[user:password@]host[:port]`."""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

Security = Literal["none", "tls", "starttls"]


class ServerUrl(NamedTuple):
    """A URL in its parts, and what they say of the server. Without a port it is the scheme's."""

    parts: SplitResult
    host: str
    port: int
    security: Security


def split_server_url(url: str, protocol: str, schemes: Mapping[str, tuple[Security, int]]) -> ServerUrl:
    """Split a URL. `schemes` have a security and a default port; `protocol` is for errors.

    Raises ValueError. Its message never quotes the URL, which contains a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            f"the {protocol} URL is invalid: percent-encode the user and the password, and use a number as the port"
        ) from None
    if parts.scheme not in schemes:
        raise ValueError(f"the {protocol} URL must start with one of {', '.join(f'{name}://' for name in schemes)}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname) or port == 0:
        raise ValueError(f"the {protocol} URL needs a host, and a port other than 0 if it has one")
    security, default_port = schemes[parts.scheme]
    return ServerUrl(parts, parts.hostname, port or default_port, security)


def host_and_port(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
