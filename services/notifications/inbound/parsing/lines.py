"""A line of an email with what the email's form says of it, and the lines of plain text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_QUOTE = re.compile(r"[ \t]?((?:>[ \t]?)+)")
# Characters that break lines for Python and some mail programs, but not for RFC 3676.
_BREAKS = re.compile(r"\r\n?|[\u2028\u2029\x0b\x0c]")


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `depth`: how often it is marked as quoted; `boxed`: inside what a mail program marks as its quote."""

    text: str
    depth: int = 0
    boxed: bool = False
    intro: bool = False

    @property
    def quoted(self) -> bool:
        """Whether the email's form says that it is a quote."""
        return self.depth > 0 or self.boxed or self.intro


def plain_lines(text: str, *, flowed: bool = False, joined: bool = False) -> list[Line]:
    """Return the lines of a plain text; soft line breaks of `format=flowed` are undone."""
    lines = [_plain_line(line) for line in _BREAKS.sub("\n", text).split("\n")]
    return list(_unwrapped(lines, joined=joined)) if flowed else lines


def _plain_line(raw: str) -> Line:
    marked = _QUOTE.match(raw)
    if marked is None:
        return Line(raw.rstrip("\n"))
    return Line(raw[marked.end() :], marked[1].count(">"))


def _unwrapped(lines: list[Line], *, joined: bool) -> Iterator[Line]:
    pieces: list[str] = []
    depth = 0
    for line in lines:
        text = line.text[1:] if line.text.startswith(" ") and not line.depth else line.text
        if pieces and line.depth != depth:
            yield Line("".join(pieces), depth)
            pieces = []
        depth = line.depth
        if text.endswith(" ") and text != "-- ":
            pieces.append(text[:-1] if joined else text)
            continue
        yield Line("".join([*pieces, text]), depth)
        pieces = []
    if pieces:
        yield Line("".join(pieces), depth)
