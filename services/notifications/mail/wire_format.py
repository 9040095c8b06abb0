"""The bytes of an SMTP dialogue."""

from collections.abc import Mapping


def size_limit(extensions: Mapping[str, str]) -> int | None:
    """Return how many bytes the server accepts (RFC 1870); None if it announced no number, or 0."""
    size = extensions.get("size", "").strip()
    return int(size) or None if size.isascii() and size.isdigit() else None


def with_crlf(content: bytes) -> bytes:
    """Return the content with CRLF at the end of every line."""
    return b"\r\n".join([*content.splitlines(), b""])


def dot_stuffed(content: bytes) -> bytes:
    """Return the content as sent after DATA: leading dots doubled, without the final dot."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..").removeprefix(b"\r\n")
