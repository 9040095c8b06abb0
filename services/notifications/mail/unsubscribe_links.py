"""Links by which a customer unsubscribes without signing in. Each email has its own, and it holds for ever."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

PATH = "/api/v1/notifications/links/"
_SIGNATURE_BYTES = 16


def unsubscribe_link(public_url: str, key: bytes, email_id: UUID) -> str:
    """Return the link of an email, signed with the key."""
    return f"{public_url.rstrip('/')}{PATH}{unsubscribe_token(key, email_id)}"


def unsubscribe_token(key: bytes, email_id: UUID) -> str:
    """Return the end of the link: the email's id and a signature, 43 characters."""
    return urlsafe_b64encode(email_id.bytes + _signature(key, email_id.bytes)).decode().rstrip("=")


def read_unsubscribe_token(key: bytes, token: str) -> UUID | None:
    """Return the id of the email that has this link; None if nobody has signed it."""
    try:
        content = urlsafe_b64decode(f"{token}=")
    except ValueError:
        return None
    email_id, signature = content[:16], content[16:]
    if (
        not hmac.compare_digest(signature, _signature(key, email_id))
        or unsubscribe_token(key, UUID(bytes=email_id)) != token
    ):
        return None
    return UUID(bytes=email_id)


def _signature(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")[:_SIGNATURE_BYTES]
