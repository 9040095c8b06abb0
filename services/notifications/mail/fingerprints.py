"""Fingerprints of the texts of an email: compact, and enough to recognise the texts in a reply that quotes them.

Mail programs wrap, indent and prefix what they quote, and rewrite its links. So only letters and digits count, in any
case, with and without accents, and without URLs. The unit is a sentence, because people answer in the midst of a
paragraph. A fingerprint is ten bytes: the length, a hash of the start, by which a candidate is found, and a hash of the
whole.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from math import ceil
from typing import Final
from unicodedata import normalize
from zlib import crc32

MAX_UNITS: Final = 400  # of an email; neighbours are joined to stay below
MAX_LENGTH: Final = 0xFFFF  # characters of a unit that are compared
GAP: Final = 10  # between the positions of two emails
START: Final = 8  # characters by which a candidate is found

_URL = re.compile(r"<?\b(?:https?://|mailto:)[^\s<>]+>?", re.IGNORECASE)
_SENTENCE_END = re.compile("(?<=[.!?\u2026:;])\\s+|(?<=[\u3002\uff01\uff1f])|\\n+")
_ASCII_MARKS: Final = bytes(code for code in range(128) if not chr(code).isalnum())
_FORMAT: Final = struct.Struct(">H3s5s")


def essence(text: str) -> str:
    """Return the letters and digits of a text in a form that survives quoting, without URLs."""
    bare = without_urls(text)
    if bare.isascii():  # the same, faster
        return bare.lower().encode().translate(None, _ASCII_MARKS).decode()
    return "".join(filter(str.isalnum, normalize("NFKD", bare).casefold()))


def without_urls(text: str) -> str:
    """Return a text in which spaces stand for URLs, so that it keeps its length."""
    return _URL.sub(lambda match: " " * len(match[0]), text) if ":" in text else text


def sentences(text: str) -> Iterator[str]:
    """Yield the lines of a text, and of a line its sentences."""
    yield from _SENTENCE_END.split(text)


def fingerprint(texts: Iterable[str]) -> bytes:
    """Return the fingerprints of texts in their order."""
    units = [unit for text in texts for sentence in sentences(text) if (unit := essence(sentence))]
    if len(units) > MAX_UNITS:
        units = ["".join(group) for group in _groups(units, ceil(len(units) / MAX_UNITS))]
    return b"".join(_FORMAT.pack(len(unit), _start(unit), _whole(unit)) for unit in (u[:MAX_LENGTH] for u in units))


class Fingerprints:
    """The fingerprints of one or several emails, to look for in a text."""

    def __init__(self, emails: Iterable[bytes]) -> None:
        found: dict[tuple[int, bytes, bytes], list[int]] = {}
        position = 0
        for email in emails:
            for unit in _FORMAT.iter_unpack(email[: len(email) // _FORMAT.size * _FORMAT.size]):
                found.setdefault(unit, []).append(position)
                position += 1
            position += GAP  # the first unit of an email does not follow the last one of another
        self._units: dict[tuple[int, bytes], list[tuple[int, bytes, list[int]]]] = {}
        for (length, start, whole), positions in sorted(found.items(), reverse=True):  # the longest first
            self._units.setdefault((min(length, START), start), []).append((length, whole, positions))
        self._starts = sorted({length for length, _ in self._units}, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._units)

    def matches(self, essence: str, at: int) -> Iterator[tuple[int, list[int]]]:
        """Yield the length of each unit that begins here, and all its positions; the longest first."""
        for short in self._starts:
            for length, whole, positions in self._units.get((short, _start(essence[at : at + short])), ()):
                unit = essence[at : at + length]
                if len(unit) == length and _whole(unit) == whole:
                    yield length, positions


def _start(unit: str) -> bytes:
    return crc32(unit[:START].encode("utf-8", "surrogatepass")).to_bytes(4)[1:]


def _whole(unit: str) -> bytes:
    return blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=5).digest()


def _groups(units: list[str], size: int) -> Iterator[list[str]]:
    for begin in range(0, len(units), size):
        yield units[begin : begin + size]
