"""Addresses for replies: `reply+TOKEN@domain`, one for each email, the same at each attempt to send it.

The token is the email's id, by which its row is found without an index over random values, and a part that nobody can
guess: 128 bits that only this service can make. Only their hash is stored. Local parts stay within 64 characters, and
their case does not count.
"""

import hmac
from base64 import b32decode, b32encode
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Final
from uuid import UUID

PREFIX: Final = "reply+"
_PART: Final = 26  # characters of 128 bits in base32, without padding
_PURPOSE: Final = b"reply address of email "


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
    text = local_part.lower()
    if not text.startswith(PREFIX) or len(text) != len(PREFIX) + 2 * _PART or not text.isascii():
        return None
    try:
        parts = [_decode(text[start : start + _PART]) for start in (len(PREFIX), len(PREFIX) + _PART)]
    except ValueError:
        return None
    return ReplyToken(UUID(bytes=parts[0]), _hash(parts[1]))


def _hash(unguessable: bytes) -> bytes:
    return blake2b(unguessable, digest_size=16).digest()


def _encode(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()


def _decode(text: str) -> bytes:
    return b32decode(f"{text.upper()}======")
