"""The parts of a report about an email, taken apart by ourselves and only from the outside.

The email package reads the fields of a `message/global-delivery-status` as an email, and encoded ones not at all. And
what is attached to an email says nothing about it: a customer may attach a report that they got.
"""

import re
from binascii import Error, a2b_base64, a2b_qp
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Final

from services.notifications.inbound.parsing.charsets import decode
from services.notifications.inbound.parsing.html_text import html_lines
from services.notifications.inbound.parsing.mime import header_of, parse_headers

MAX_READ: Final = 512 * 1024  # bytes of a report that are read: our email stands at its end, and may be long
MAX_PARTS: Final = 20
MAX_TEXT: Final = 20_000  # characters of a text
MAX_BLOCKS: Final = 50  # recipients of a report
MAX_FIELD: Final = 2_000  # characters of a field
MAX_DEPTH: Final = 3
_TOKEN = re.compile(r"\s*([A-Za-z0-9!#$&^_.+/-]+)")
_FIELD = re.compile(r"([!-9;-~]{1,100}):[ \t]*(.*)", re.DOTALL)

Fields = dict[str, str]
"""Fields of a report by their names in lower case; of several of a name the first."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a report: its type in lower case, its headers and its bytes, not decoded."""

    kind: str
    headers: Message
    raw: bytes

    @property
    def content(self) -> bytes:
        """The bytes, decoded."""
        encoding = header_of(self.headers, "content-transfer-encoding").lower()
        try:
            if encoding == "base64":
                digits = self.raw.translate(None, b"\r\n\t ")
                return a2b_base64(digits[: len(digits) - len(digits) % 4])  # the rest may have been cut off
            return a2b_qp(self.raw) if encoding == "quoted-printable" else self.raw
        except (Error, ValueError):
            return self.raw

    @property
    def text(self) -> str:
        """The content as text, with the same end of all lines."""
        charset = _parameter_of(self.headers, "charset") if self.kind.startswith("text/") else "utf-8"
        text = decode(self.content[: 2 * MAX_TEXT], charset).replace("\r\n", "\n").replace("\r", "\n")
        if self.kind == "text/html":
            text = "\n".join(line.text for line in html_lines(text))
        return text[:MAX_TEXT]


def read_parts(source: bytes) -> tuple[Message, list[Part]]:
    """Return the headers of an email and its parts: the outer ones, and those of an outer alternative."""
    source = source[:MAX_READ]
    whole = _part(source, is_outer=True)
    return whole.headers, list(_leaves(whole, 0))[:MAX_PARTS]


def read_blocks(text: str) -> list[Fields]:
    """Return the blocks of fields of a report: the first one is about the report, the others about recipients."""
    blocks: list[Fields] = [{}]
    name = None
    for line in text.split("\n"):
        if not line.strip():
            if blocks[-1]:
                if len(blocks) > MAX_BLOCKS:
                    break
                blocks.append({})
            name = None
        elif line[0] in " \t":
            if name is not None and len(blocks[-1][name]) < MAX_FIELD:
                blocks[-1][name] += f" {line.strip()}"
        elif (match := _FIELD.match(line)) is not None:
            name = match[1].lower()
            if name in blocks[-1]:
                name = None
            else:
                blocks[-1][name] = match[2].strip()[:MAX_FIELD]
        else:
            name = None
    return [block for block in blocks if block]


def _parameter_of(headers: Message, name: str) -> str:
    """Return a parameter of the content's type; empty if there is none, or none that can be read."""
    try:
        return str(headers.get_param(name, "") or "")
    except (ValueError, LookupError, TypeError):
        return ""


def _leaves(part: Part, depth: int) -> Iterator[Part]:
    if not part.kind.startswith("multipart/"):
        yield part
    elif depth < MAX_DEPTH and (depth == 0 or part.kind in {"multipart/alternative", "multipart/related"}):
        boundary = _parameter_of(part.headers, "boundary").rstrip()
        for source in _split(part.raw, boundary) if boundary else ():
            yield from _leaves(_part(source), depth + 1)


def _split(body: bytes, boundary: str) -> Iterator[bytes]:
    """Split a body at the lines of its boundary. The last part may be without an end."""
    mark = re.escape(boundary.encode("utf-8", "replace"))
    pieces = re.split(rb"(?:^|\r\n|\r|\n)--" + mark + rb"(--)?[ \t]*(?=\r|\n|\Z)", body, maxsplit=MAX_PARTS)
    # The pieces are the preamble, then in turn whether the line was the last one, and what follows it.
    for ends, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if ends:
            return
        yield piece.removeprefix(b"\r").removeprefix(b"\n")


def _part(source: bytes, *, is_outer: bool = False) -> Part:
    blank = re.search(rb"\r\n\r\n|\n\n|\r\r", source) if not re.match(rb"\r?\n", source) else None
    if blank is None and not is_outer and re.match(rb"\r?\n", source):
        headers, body = Message(), source.lstrip(b"\r\n")
    else:
        headers = parse_headers(source)
        body = source[blank.end() :] if blank is not None else b""
    match = _TOKEN.match(header_of(headers, "content-type").partition(";")[0])
    return Part(match[1].lower() if match else "text/plain", headers, body)
