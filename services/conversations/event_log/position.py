"""The names of positions in the event log, which clients get and give back to go on from there."""

import base64
import struct
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

_BLOCK: Final = struct.Struct(">8xq")  # zeros, by which the right key is told, and the position
_ZEROS: Final = bytes(8)


def encode_position(epoch: UUID, position: int) -> str:
    """Return the opaque, URL-safe name of a position.

    It is encrypted: numbers would tell each customer how much the whole store writes. The key is the log's epoch,
    which is random, known to all processes, and told to no client; so a position of another epoch has no meaning.
    """
    return base64.urlsafe_b64encode(_cipher(epoch).encryptor().update(_BLOCK.pack(position))).decode().rstrip("=")


def decode_position(name: str, epoch: UUID) -> int | None:
    """Return the position that a client names, or None when it is none of this epoch."""
    try:
        block = base64.b64decode(f"{name}==", altchars=b"-_", validate=True)
    except ValueError:
        return None
    if len(block) != _BLOCK.size:
        return None
    plain = _cipher(epoch).decryptor().update(block)
    [position] = _BLOCK.unpack(plain)
    return position if plain.startswith(_ZEROS) and position >= 0 else None


@lru_cache(maxsize=16)
def _cipher(epoch: UUID) -> Cipher[ECB]:
    key = sha256(b"position" + epoch.bytes).digest()[:16]
    return Cipher(AES(key), ECB())  # noqa: S305 - one block alone, and no two positions are the same
