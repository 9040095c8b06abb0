"""Parse `CHATS_SMTP_URL`, the URL of the mail server."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote

import idna

from services.notifications.mail.server_url import Security, host_and_port, split_server_url

LOOPBACK = "[127.0.0.1]"

SCHEMES: dict[str, tuple[Security, int]] = {
    "smtp": ("none", 25),
    "smtps": ("tls", 465),
    "smtp+starttls": ("starttls", 587),
}


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The address of the mail server, its security and credentials."""

    host: str
    port: int
    security: Security
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_smtp_url(url: str) -> SmtpServer:
    """Parse `smtp://`, `smtps://` or `smtp+starttls://`, followed by `[user:password@]host[:port]`.

    `smtp` sends without TLS; the other two verify the server's certificate. User and password are percent-encoded.
    Raises ValueError. Its message never quotes the URL, which contains a password.
    """
    parts, host, port, security = split_server_url(url, "SMTP", SCHEMES)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("the SMTP URL must end after the port; percent-encode '/', '?' and '#' in a password")
    return SmtpServer(host, port, security, *_credentials(parts))


def ehlo_name(host: str) -> str:
    """Return a URL's host for EHLO: an ASCII name or an address literal (RFC 5321, 4.1.3)."""
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"  # noqa: PLR2004 - the version's number
    try:
        return (host if host.isascii() else idna.encode(host, uts46=True).decode()).rstrip(".") or LOOPBACK
    except UnicodeError:
        return LOOPBACK


def host_of(url: str | None) -> str:
    """Return `host:port` of an SMTP URL, or an empty string without one."""
    if url is None:
        return ""
    server = parse_smtp_url(url)
    return host_and_port(server.host, server.port)


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    if not parts.username and not parts.password:
        return None, None
    if not parts.username or not parts.password:
        raise ValueError("the SMTP URL needs both a user and a password, or neither")
    return unquote(parts.username), unquote(parts.password)
