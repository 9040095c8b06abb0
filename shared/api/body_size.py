"""Limit the size of request bodies. Text is counted without the escapes of formats such as JSON."""

import re
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException

MAX_BODY_BYTES = 64 * 1024  # of text


@dataclass(frozen=True, slots=True)
class Escapes:
    """A format's escapes: one character written as several ASCII bytes, at most `longest`."""

    pattern: re.Pattern[bytes]
    longest: int

    def text_size(self, body: bytes | bytearray) -> int:
        """Return the size of a body with one byte for each escape."""
        return len(body) - self.overhead(body)

    def overhead(self, body: bytes | bytearray) -> int:
        """Return the bytes by which escapes make a body longer than its text."""
        return (self.longest - 1) * sum(1 for _ in self.pattern.finditer(body))


JSON_ESCAPES = Escapes(re.compile(rb"\\u[0-9A-Fa-f]{4}"), 6)
FORM_ESCAPES = Escapes(re.compile(rb"%[0-9A-Fa-f]{2}"), 3)
NO_ESCAPES = Escapes(re.compile(rb"(?!)"), 1)


class BodySize:
    """The size of one body, counted chunk by chunk. Escapes are searched only in large bodies."""

    def __init__(self, content_type: str, limit: int = MAX_BODY_BYTES) -> None:
        self._limit = limit
        urlencoded = content_type.startswith("application/x-www-form-urlencoded")
        self._escapes = FORM_ESCAPES if urlencoded else JSON_ESCAPES if "json" in content_type else NO_ESCAPES
        self._size = self._overhead = 0
        self._uncounted = bytearray()

    def check_declared(self, size: int) -> None:
        """Raise if a body with this declared number of bytes is too large even if it consists of escapes."""
        self._check_size(size if self._escapes is NO_ESCAPES else size // self._escapes.longest)

    def add(self, chunk: bytes) -> None:
        """Count another chunk. Raise if the body is too large."""
        self._size += len(chunk)
        if self._escapes is NO_ESCAPES:
            self._check_size(self._size)
            return
        self._uncounted += chunk
        if self._size > MAX_BODY_BYTES:
            self._overhead += self._escapes.overhead(self._uncounted)
            del self._uncounted[: 1 - self._escapes.longest]  # an escape may continue in the next chunk
            self._check_size(self._size - self._overhead)

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise too_large(self._limit)


class BodyTooLarge(HTTPException):
    """The error of a body that is larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request body is larger than {limit} bytes.")
        self.limit = limit


def too_large(limit: int = MAX_BODY_BYTES) -> BodyTooLarge:
    """Return the error of a body that is larger than a limit."""
    return BodyTooLarge(limit)
