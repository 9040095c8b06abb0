"""Render message bodies for the text and the HTML part of an email, in linear time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import bidirectional

from markupsafe import Markup, escape

MAX_BLOCKS = 200  # blocks of lines with one direction; the remaining lines are one more block
MESSAGE_BYTES = 800  # bytes of the template around a body, including the sender's name
FILE_BYTES = 2000  # bytes of the template for a file, including its name and link

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
# Control characters except tab and line feed, lone surrogates, line and paragraph separators.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_SIGNATURE_DELIMITER = re.compile(r"^--[^\S\n]+$", re.MULTILINE)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")
_LATIN = re.compile("[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Body:
    """A body as text, with every line break as a line feed, and as the content of an HTML element."""

    text: str
    html: Markup


def render_body(body: str) -> Body:
    """Render a body for both parts, without control characters except tab.

    Email clients hide the text after a line of two hyphens and a space as a signature, so the space is removed. The
    HTML uses markup for white space, because Outlook does not support `white-space`. Each line has its own direction.
    """
    text = _SIGNATURE_DELIMITER.sub("--", _UNPRINTABLE.sub("", "\n".join(body.splitlines())))
    if not _RIGHT_TO_LEFT.search(text):
        return Body(text, _lines(text))
    # An explicit direction, because Outlook does not support `auto`.
    blocks = [f'<div dir="{direction}">{_lines(lines)}</div>' for direction, lines in _blocks(text)]
    return Body(text, Markup("".join(blocks)))  # noqa: S704 - _lines escapes the text


def html_size(body: str) -> int:
    """Return the maximum number of bytes that a message with this body adds to the HTML of an email, without files."""
    return MESSAGE_BYTES + len(render_body(body).html.encode())


def _lines(text: str) -> Markup:
    # HTML drops spaces at the beginning of a line and collapses them elsewhere.
    spaced = text.replace("\t", "    ")
    for _ in range(2):  # the second pass is for runs of odd length
        spaced = spaced.replace("  ", f"{_NO_BREAK_SPACE} ")
    spaced = spaced.replace("\n ", f"\n{_NO_BREAK_SPACE}")
    if spaced.startswith(" "):
        spaced = _NO_BREAK_SPACE + spaced[1:]
    # A line break at the end needs a second one to show an empty line.
    return escape(spaced + "\n" if spaced.endswith("\n") else spaced).replace("\n", Markup("<br>"))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield consecutive lines of one direction; after `MAX_BLOCKS` blocks, the rest as one block with `auto`.

    The direction of a line is that of its first letter, or of the line before it if it has no letters.
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
    for direction in map(bidirectional, line):
        if direction in {"L", "R", "AL"}:
            return "ltr" if direction == "L" else "rtl"
    return None
