"""Lift large files out of an email before it is parsed, because the parser keeps several times their size in memory.

A file in base64 is replaced by a mark that nobody can guess, and decoded from the email's own bytes when it is needed.
"""

import secrets
from binascii import Error, a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LARGE: Final = 256 * 1024  # bytes from which a file is lifted out
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n"
_PIECE: Final = 1024 * 1024  # bytes that are checked at once


@dataclass(frozen=True, slots=True)
class Lifted:
    """Where a large file is in an email."""

    source: bytes
    begin: int
    end: int
    is_base64: bool = True

    @property
    def content(self) -> bytes:
        """The file, decoded."""
        raw = memoryview(self.source)[self.begin : self.end]
        try:
            return a2b_base64(raw) if self.is_base64 else bytes(raw)
        except Error:
            return bytes(raw)


def lift_large(source: bytes) -> tuple[bytes, dict[str, Lifted]]:
    """Return an email with marks for its large files, and the files by their marks."""
    lifted: dict[str, Lifted] = {}
    if len(source) < LARGE:
        return source, lifted
    pieces, copied, at = [], 0, 0
    while (head := source.find(b"\r\n\r\n", at)) >= 0:
        begin = head + 4
        end = source.find(b"\r\n--", begin)
        end = len(source) if end < 0 else end
        if end - begin >= LARGE and _is_base64(source, begin, end):
            mark = f"lifted-{secrets.token_hex(16)}"
            lifted[mark] = Lifted(source, begin, end)
            pieces += [source[copied:begin], mark.encode()]
            copied = end
        at = end
    return b"".join([*pieces, source[copied:]]) if lifted else source, lifted


def put_back(content: bytes, lifted: Mapping[str, Lifted]) -> bytes:
    """Return a part of an email with the files in place of their marks."""
    for mark, file in lifted.items():
        if mark.encode() in content:
            content = content.replace(mark.encode(), file.source[file.begin : file.end])
    return content


def _is_base64(source: bytes, begin: int, end: int) -> bool:
    return not any(
        source[start : min(start + _PIECE, end)].translate(None, _BASE64) for start in range(begin, end, _PIECE)
    )
