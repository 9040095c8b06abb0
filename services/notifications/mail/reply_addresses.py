"""Addresses of an email's own, the same at each attempt to send it: `reply+TOKEN@domain` for replies to it.

The token is the email's id, by which its row is found without an index over random values, and a part that nobody can
guess: 128 bits that only this service can make. Only their hash is stored. Local parts stay within 64 characters, and
their case does not count.

`leave+TOKEN@domain` stops the emails. Like the link that does, it holds for ever and nothing is stored of it: the key
of these links makes its token.
"""

import hmac
from base64 import b32decode, b32encode
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Final
from uuid import UUID

PREFIX: Final = "reply+"
LEAVE_PREFIX: Final = "leave+"
_PART: Final = 26  # characters of 128 bits in base32, without padding
_PURPOSE: Final = b"reply address of email "
_LEAVE_PURPOSE: Final = b"leave address of email "


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """The token of a reply address: which email it answers, and the hash of the part that cannot be guessed."""

    email_id: UUID
    hash: bytes


def make_reply_address(secret: str, email_id: UUID, domain: str) -> tuple[str, bytes]:
    """Return the address for replies to an email, and the hash that is stored of it."""
    unguessable = hmac.digest(secret.encode(), _PURPOSE + email_id.bytes, sha256)[:16]
    return f"{PREFIX}{_encode(email_id.bytes)}{_encode(unguessable)}@{domain}", _hash(unguessable)


def read_reply_token(local_part: str) -> ReplyToken | None:
    """Return the token of a local part; None if it cannot be one of ours."""
    parts = _read(local_part, PREFIX)
    return ReplyToken(UUID(bytes=parts[0]), _hash(parts[1])) if parts is not None else None


def make_leave_address(key: bytes, email_id: UUID, domain: str) -> str:
    """Return the address at which an email stops the emails about the same conversation."""
    return f"{LEAVE_PREFIX}{_encode(email_id.bytes)}{_encode(_leave_signature(key, email_id))}@{domain}"


def read_leave_address(local_part: str) -> tuple[UUID, bytes] | None:
    """Return the email's id and the signature to check with `is_signed`; None if it cannot be such an address."""
    parts = _read(local_part, LEAVE_PREFIX)
    return (UUID(bytes=parts[0]), parts[1]) if parts is not None else None


def is_signed(key: bytes, email_id: UUID, signature: bytes) -> bool:
    """Return whether we made the address of an email with this signature."""
    return hmac.compare_digest(signature, _leave_signature(key, email_id))


def _leave_signature(key: bytes, email_id: UUID) -> bytes:
    return hmac.digest(key, _LEAVE_PURPOSE + email_id.bytes, sha256)[:16]


def _read(local_part: str, prefix: str) -> tuple[bytes, bytes] | None:
    text = local_part.lower()
    if not text.startswith(prefix) or len(text) != len(prefix) + 2 * _PART or not text.isascii():
        return None
    try:
        return _decode(text[len(prefix) : -_PART]), _decode(text[-_PART:])
    except ValueError:
        return None


def _hash(unguessable: bytes) -> bytes:
    return blake2b(unguessable, digest_size=16).digest()


def _encode(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()


def _decode(text: str) -> bytes:
    return b32decode(f"{text.upper()}======")
