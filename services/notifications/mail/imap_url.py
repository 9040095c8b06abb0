"""Parse `CHATS_INBOUND_IMAP_URL`, the URL of a mailbox."""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

Security = Literal["none", "tls", "starttls"]

SCHEMES: dict[str, tuple[Security, int]] = {
    "imaps": ("tls", 993),
    "imap+starttls": ("starttls", 143),
    "imap": ("none", 143),
}


@dataclass(frozen=True, slots=True)
class ImapServer:
    """The address of the mail server, its security and credentials, and the folder that is read."""

    host: str
    port: int
    security: Security
    user: str
    password: str = field(repr=False)
    folder: str = "INBOX"

    @property
    def where(self) -> str:
        """The server without its credentials, for logs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_imap_url(url: str) -> ImapServer:
    """Parse `imaps://`, `imap+starttls://` or `imap://`, followed by `user:password@host[:port][/folder]`.

    `imap` reads without TLS; the other two verify the server's certificate. User, password and folder are
    percent-encoded. Raises ValueError. Its message never quotes the URL, which contains a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            "the IMAP URL is invalid: percent-encode the user and the password, and use a number as the port"
        ) from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the IMAP URL must start with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname) or port == 0:
        raise ValueError("the IMAP URL needs a host, and a port other than 0 if it has one")
    if not parts.username or not parts.password:
        raise ValueError("the IMAP URL needs a user and a password")
    if parts.query or parts.fragment:
        raise ValueError("the IMAP URL must end after the folder; percent-encode '/', '?' and '#' in a password")
    user, password, folder = unquote(parts.username), unquote(parts.password), unquote(parts.path.strip("/"))
    if any(not character.isprintable() for character in user + password + folder):
        raise ValueError("user, password and folder in the IMAP URL must have no control characters")
    security, default_port = SCHEMES[parts.scheme]
    return ImapServer(parts.hostname, port or default_port, security, user, password, folder or "INBOX")
