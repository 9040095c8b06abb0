"""Idempotency keys: a repeat of the same key, operation and fields returns the first result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key and the hash of its request."""

    key: str
    request_hash: str

    @classmethod
    def of(cls, key: str | None, operation: str, fields: Mapping[str, Any]) -> "IdempotencyKey | None":
        """Bind a caller's key to an operation and its trimmed fields; return None without a key."""
        if key is None:
            return None
        canonical = json.dumps([operation, fields], sort_keys=True, default=str)
        return cls(f"{operation}:{key}", hashlib.sha256(canonical.encode()).hexdigest())
