"""Addresses of an email's own, the same at each attempt to send it: `reply+TOKEN@domain` for replies to it.

The token is the email's id, by which its row is found without an index over random values, and a part that nobody can
guess: 128 bits that only this service can make. Only their hash is stored. Local parts stay within 64 characters, and
their case does not count.

`leave+TOKEN@domain` stops the emails. Like the link that does, it holds for ever and nothing is stored of it: the key
of these links makes its token.

`bounce+TOKEN@domain` is the envelope sender of an email, to which mail servers report that they could not deliver it.
Its token is made like that of the address for replies, and checked by making it again: nothing is stored of it either.
"""

import hmac
from base64 import b32decode, b32encode
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Final
from uuid import UUID

PREFIX: Final = "reply+"
UNSUBSCRIBE_PREFIX: Final = "leave+"
BOUNCE_PREFIX: Final = "bounce+"
_PART: Final = 26  # characters of 128 bits in base32, without padding
_PURPOSE: Final = b"reply address of email "
_UNSUBSCRIBE_PURPOSE: Final = b"leave address of email "
_BOUNCE_PURPOSE: Final = b"envelope sender of email "


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """The token of a reply address: which email it answers, and the hash of the part that cannot be guessed."""

    email_id: UUID
    hash: bytes


def make_reply_address(secret: str, email_id: UUID, domain: str) -> tuple[str, bytes]:
    """Return the address for replies to an email, and the hash that is stored of it."""
    unguessable = _unguessable(secret, _PURPOSE, email_id)
    return f"{PREFIX}{_encode(email_id.bytes)}{_encode(unguessable)}@{domain}", _hash(unguessable)


def read_reply_token(local_part: str) -> ReplyToken | None:
    """Return the token of a local part; None if it cannot be one of ours."""
    parts = _read(local_part, PREFIX)
    return ReplyToken(UUID(bytes=parts[0]), _hash(parts[1])) if parts is not None else None


def read_own_reply_address(secret: str, local_part: str) -> UUID | None:
    """Return the id of the email whose address for replies has this local part; None if this secret did not make it."""
    parts = _read(local_part, PREFIX)
    email_id = UUID(bytes=parts[0]) if parts is not None else None
    if parts is None or email_id is None:
        return None
    return email_id if hmac.compare_digest(parts[1], _unguessable(secret, _PURPOSE, email_id)) else None


def make_unsubscribe_address(key: bytes, email_id: UUID, domain: str) -> str:
    """Return the address at which an email stops the emails about the same conversation."""
    return f"{UNSUBSCRIBE_PREFIX}{_encode(email_id.bytes)}{_encode(_unsubscribe_signature(key, email_id))}@{domain}"


def read_unsubscribe_address(local_part: str) -> tuple[UUID, bytes] | None:
    """Return the email's id and the signature to check with `is_signed`; None if it cannot be such an address."""
    parts = _read(local_part, UNSUBSCRIBE_PREFIX)
    return (UUID(bytes=parts[0]), parts[1]) if parts is not None else None


def is_signed(key: bytes, email_id: UUID, signature: bytes) -> bool:
    """Return whether we made the address of an email with this signature."""
    return hmac.compare_digest(signature, _unsubscribe_signature(key, email_id))


def make_bounce_address(secret: str, email_id: UUID, domain: str) -> str:
    """Return the envelope sender of an email."""
    unguessable = _unguessable(secret, _BOUNCE_PURPOSE, email_id)
    return f"{BOUNCE_PREFIX}{_encode(email_id.bytes)}{_encode(unguessable)}@{domain}"


def read_bounce_address(secret: str, local_part: str) -> UUID | None:
    """Return the id of the email whose envelope sender has this local part; None if we did not make it."""
    parts = _read(local_part, BOUNCE_PREFIX)
    email_id = UUID(bytes=parts[0]) if parts is not None else None
    if parts is None or email_id is None:
        return None
    return email_id if hmac.compare_digest(parts[1], _unguessable(secret, _BOUNCE_PURPOSE, email_id)) else None


def _unguessable(secret: str, purpose: bytes, email_id: UUID) -> bytes:
    return hmac.digest(secret.encode(), purpose + email_id.bytes, sha256)[:16]


def _unsubscribe_signature(key: bytes, email_id: UUID) -> bytes:
    return hmac.digest(key, _UNSUBSCRIBE_PURPOSE + email_id.bytes, sha256)[:16]


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
