"""Opaque tokens for positions in the event log, which clients send back to resume from there."""

import base64
import struct
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

_BLOCK: Final = struct.Struct(">8xq")  # zeros, which verify the key, and the position
_ZEROS: Final = bytes(8)


@lru_cache(maxsize=256)
def encode_position(epoch: UUID, position: int) -> str:
    """Return an opaque, URL-safe token for a position.

    It is encrypted because plain numbers would reveal to every customer how many events the whole store has. The key is
    derived from the log's epoch, which is random, known to all processes and never sent to clients. So tokens of
    another epoch are invalid.
    """
    encryptor, _ = _cipher(epoch)
    return base64.urlsafe_b64encode(encryptor.update(_BLOCK.pack(position))).decode().rstrip("=")


def decode_position(token: str, epoch: UUID) -> int | None:
    """Return the position of a client's token, or None if the token is invalid or of another epoch."""
    try:
        block = base64.b64decode(f"{token}==", altchars=b"-_", validate=True)
    except ValueError:
        return None
    if len(block) != _BLOCK.size:
        return None
    _, decryptor = _cipher(epoch)
    plain = decryptor.update(block)
    [position] = _BLOCK.unpack(plain)
    return position if plain.startswith(_ZEROS) and position >= 0 else None


@lru_cache(maxsize=16)
def _cipher(epoch: UUID) -> tuple[CipherContext, CipherContext]:
    """Return what encrypts and what decrypts whole blocks, each on its own: to make them takes most of the time."""
    key = sha256(b"position" + epoch.bytes).digest()[:16]
    cipher = Cipher(AES(key), ECB())  # noqa: S305 - a single block, and every position is unique
    return cipher.encryptor(), cipher.decryptor()
