"""The body of a message as both parts of an email show it, at a cost that is linear in its length."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import bidirectional

from markupsafe import Markup, escape

MAX_BLOCKS = 200  # of lines of one direction; all that follows them is one more
MESSAGE_BYTES = 800  # that the template has around a body, and a name

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
# Control characters but tab and line feed, lone surrogates, line and paragraph separators.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_SIGNATURE_MARK = re.compile(r"^--[^\S\n]+$", re.MULTILINE)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")
_LATIN = re.compile("[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Body:
    """A body as text, with a line feed for every kind of line break, and as the inside of an HTML element."""

    text: str
    html: Markup


def render_body(body: str) -> Body:
    """Render a body; the same text comes out of both parts, without control characters but tab.

    Mail programs take what follows a line of two hyphens and a space for a signature and hide it: the space goes. In
    HTML the shape is in the markup, since Outlook knows no `white-space`, and each line has its own direction.
    """
    text = _SIGNATURE_MARK.sub("--", _UNPRINTABLE.sub("", "\n".join(body.splitlines())))
    if not _RIGHT_TO_LEFT.search(text):
        return Body(text, _lines(text))
    # By name, as Outlook does not know `auto`.
    blocks = [f'<div dir="{direction}">{_lines(lines)}</div>' for direction, lines in _blocks(text)]
    return Body(text, Markup("".join(blocks)))  # noqa: S704 - what somebody wrote is escaped by _lines


def html_size(body: str) -> int:
    """Return the bytes that a message with this body adds to the HTML of an email, at most."""
    return MESSAGE_BYTES + len(render_body(body).html.encode())


def _lines(text: str) -> Markup:
    # HTML drops spaces at the beginning of a line, and elsewhere all of them but one.
    spaced = text.replace("\t", "    ")
    for _ in range(2):  # once more for runs of an odd number
        spaced = spaced.replace("  ", f"{_NO_BREAK_SPACE} ")
    spaced = spaced.replace("\n ", f"\n{_NO_BREAK_SPACE}")
    if spaced.startswith(" "):
        spaced = _NO_BREAK_SPACE + spaced[1:]
    # A line break at the end shows no empty line by itself.
    return escape(spaced + "\n" if spaced.endswith("\n") else spaced).replace("\n", Markup("<br>"))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield lines of one direction together; beyond so many blocks, the rest as one that the reader's program turns.

    A line has the direction of its first letter; one without letters goes with the line before it.
    """
    lines = text.split("\n")
    current, begin, blocks = next(filter(None, map(_direction, lines)), "ltr"), 0, 0
    for number, line in enumerate(lines):
        direction = _direction(line)
        if direction is None or direction == current:
            continue
        if blocks == MAX_BLOCKS:
            current = "auto"
            break
        yield current, "\n".join(lines[begin:number])
        current, begin, blocks = direction, number, blocks + 1
    yield current, "\n".join(lines[begin:])


def _direction(line: str) -> str | None:
    if line.isascii():
        return "ltr" if _LATIN.search(line) else None
    for found in map(bidirectional, line):
        if found in {"L", "R", "AL"}:
            return "ltr" if found == "L" else "rtl"
    return None
