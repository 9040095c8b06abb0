"""How large the body of a request is: its text is counted, and not the escapes that some formats write it with."""

import re
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException

MAX_BODY_BYTES = 64 * 1024  # of text


@dataclass(frozen=True, slots=True)
class Escapes:
    """How a format writes a character as several bytes of ASCII, of which the longest form has `longest`."""

    pattern: re.Pattern[bytes]
    longest: int

    def text_size(self, body: bytes | bytearray) -> int:
        """Return the size of a body with one byte for each escape."""
        return len(body) - self.saved(body)

    def saved(self, body: bytes | bytearray) -> int:
        """Return the bytes by which escapes make a body longer than its text."""
        return (self.longest - 1) * sum(1 for _ in self.pattern.finditer(body))


JSON_ESCAPES = Escapes(re.compile(rb"\\u[0-9A-Fa-f]{4}"), 6)
FORM_ESCAPES = Escapes(re.compile(rb"%[0-9A-Fa-f]{2}"), 3)
NO_ESCAPES = Escapes(re.compile(rb"(?!)"), 1)


class BodySize:
    """The size of one body, piece by piece. A small body costs an addition; escapes are counted in a large one only."""

    def __init__(self, content_type: str) -> None:
        urlencoded = content_type.startswith("application/x-www-form-urlencoded")
        self._escapes = FORM_ESCAPES if urlencoded else JSON_ESCAPES if "json" in content_type else NO_ESCAPES
        self._size = self._saved = 0
        self._uncounted = bytearray()

    def check_declared(self, size: int) -> None:
        """Raise when a body that is declared to have this many bytes is too large whatever is in it."""
        _check_size(size if self._escapes is NO_ESCAPES else size // self._escapes.longest)

    def add(self, piece: bytes) -> None:
        """Count another piece; raise when it is too much."""
        self._size += len(piece)
        if self._escapes is NO_ESCAPES:
            _check_size(self._size)
            return
        self._uncounted += piece
        if self._size > MAX_BODY_BYTES:
            self._saved += self._escapes.saved(self._uncounted)
            del self._uncounted[: 1 - self._escapes.longest]  # an escape may go on in the next piece
            _check_size(self._size - self._saved)


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES} bytes.")
