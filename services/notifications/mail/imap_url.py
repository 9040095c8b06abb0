"""Parse `CHATS_INBOUND_IMAP_URL`, the URL of a mailbox."""

from dataclasses import dataclass, field
from urllib.parse import unquote

from services.notifications.mail.server_url import Security, host_and_port, split_server_url

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
        return host_and_port(self.host, self.port)


def parse_imap_url(url: str) -> ImapServer:
    """Parse `imaps://`, `imap+starttls://` or `imap://`, followed by `user:password@host[:port][/folder]`.

    `imap` reads without TLS; the other two verify the server's certificate. User, password and folder are
    percent-encoded. Raises ValueError. Its message never quotes the URL, which contains a password.
    """
    parts, host, port, security = split_server_url(url, "IMAP", SCHEMES)
    if not parts.username or not parts.password:
        raise ValueError("the IMAP URL needs a user and a password")
    if parts.query or parts.fragment:
        raise ValueError("the IMAP URL must end after the folder; percent-encode '/', '?' and '#' in a password")
    user, password, folder = unquote(parts.username), unquote(parts.password), unquote(parts.path.strip("/"))
    if any(not character.isprintable() for character in user + password + folder):
        raise ValueError("user, password and folder in the IMAP URL must have no control characters")
    return ImapServer(host, port, security, user, password, folder or "INBOX")
