"""Where `chats inbound` listens: `lmtp://host:port`, `smtp://host:port` or `lmtp:///path/of/a/socket`."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Listen:
    """A listening address."""

    is_lmtp: bool
    host: str = ""
    port: int = 0
    path: str | None = None


def parse_listen_url(url: str) -> Listen:
    """Read a listening address. Raises ValueError for anything else."""
    parts = urlsplit(url)
    wrong = ValueError("the URL must look like lmtp://127.0.0.1:8024, smtp://127.0.0.1:8024 or lmtp:///run/chats.sock")
    if parts.scheme not in {"lmtp", "smtp"} or parts.query or parts.fragment or parts.username is not None:
        raise wrong
    if parts.hostname and parts.port and not parts.path.strip("/"):
        return Listen(parts.scheme == "lmtp", parts.hostname, parts.port)
    if not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1:
        return Listen(parts.scheme == "lmtp", path=parts.path)
    raise wrong
