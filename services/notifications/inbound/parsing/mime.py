"""Take an email apart: the parts that its sender sees as text, and its files. Nothing here fails on any input.

The walk is our own: what the email package calls the body loses a photo between two texts, and other libraries mix the
text and files of an attached email into those of the sender. It stops at an attached email, which is one file.

The parser runs with its old policy, which leaves headers as they are: `policy.default` parses one at each look, which
took most of the time. Headers that need it are decoded by `policy.default`. Emails of the usual form do without it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Final

from services.notifications.inbound.parsing.charsets import decode
from services.notifications.inbound.parsing.descriptions import described, raw_header, safely
from services.notifications.inbound.parsing.large_files import Lifted, lift_large, put_back
from services.notifications.inbound.parsing.usual_form import read_usual, read_usual_headers

MAX_DEPTH: Final = 60
MAX_PARTS: Final = 1000
MAX_TEXT: Final = 2_000_000  # characters of all texts that are read
MAX_HEADER: Final = 4_000  # characters of a header that are read: the email package takes the square of its length
MAX_BOUNDARIES: Final = 10_000  # lines that may begin a part, and
MAX_LINES: Final = 1_000_000  # lines of any kind, of an email that is parsed: the parser makes an object of each
_NO_WORDS: Final = re.compile(rb"<[^<>]*>|&nbsp;")  # of HTML: it may be empty beside a plain text with words
_SIGNATURES: Final = {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}


@dataclass(frozen=True, slots=True)
class TextPart:
    """A part that is read as text. `flowed` and `joined`: `format` and `delsp` of RFC 3676."""

    text: str
    is_html: bool
    flowed: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part that is a file. `content_id`: by which HTML refers to it, without brackets."""

    name: str
    content_type: str
    stored: "bytes | Lifted"
    content_id: str = ""
    inline: bool = False

    @property
    def content(self) -> bytes:
        """The bytes of the file, decoded at each look."""
        return self.stored.content if isinstance(self.stored, Lifted) else self.stored


@dataclass(slots=True)
class ParsedEmail:
    """An email taken apart. `incomplete`: it is deeper or has more parts than are read."""

    message: Message
    texts: list[TextPart] = field(default_factory=list)
    files: list[FilePart] = field(default_factory=list)
    incomplete: bool = False
    lifted: dict[str, Lifted] = field(default_factory=dict)

    def header(self, name: str) -> str:
        """Return the first header of a name as one line, decoded; empty if there is none."""
        return header_of(self.message, name)


class _BoundedHeaders(policy.Compat32):
    """The old policy, with headers cut. Those of our mail server are left whole: a verdict may stand at the end."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value if name.lower() == "authentication-results" else value[:MAX_HEADER]


_POLICY: Final = _BoundedHeaders()


def header_of(message: Message, name: str) -> str:
    """Return the first header of a name as one line, decoded; empty if there is none."""
    raw = raw_header(message, name)
    if raw.isascii() and "=?" not in raw:
        return " ".join(raw.split())
    return " ".join(str(safely(lambda: policy.default.header_fetch_parse(name, raw), "")).split())


def parse_headers(source: bytes) -> Message:
    """Read the headers of an email only."""
    head = source[:200_000]
    for end in (b"\r\n\r\n", b"\n\n"):
        if (at := head.find(end)) >= 0:
            head = head[: at + len(end)]
            break
    message: Message = safely(lambda: _parse_headers(head), Message())
    return message


def _parse_headers(head: bytes) -> Message:
    usual = read_usual_headers(head.removesuffix(b"\r\n").decode("ascii", "surrogateescape"), _POLICY)
    return BytesHeaderParser(policy=_POLICY).parsebytes(head) if usual is None else usual


def parse_email(source: bytes) -> ParsedEmail:
    """Take an email apart."""
    try:
        skeleton, lifted = lift_large(source)
        _check_size(skeleton)
        usual = read_usual(skeleton, _POLICY)
        message: Message = message_from_bytes(skeleton, policy=_POLICY) if usual is None else usual
    except (RecursionError, ValueError, LookupError):  # nested hundreds deep, too long, or what no parser foresaw
        email = ParsedEmail(parse_headers(source), incomplete=True)
        email.files.append(FilePart("email.eml", "message/rfc822", source))
        return email
    email = ParsedEmail(message, lifted=lifted)
    _walk(email, message, 0, _Left(), texts=email.texts)
    return email


@dataclass(slots=True)
class _Left:
    """What may still be read of an email."""

    parts: int = MAX_PARTS
    characters: int = MAX_TEXT


def _check_size(source: bytes) -> None:
    """Raise ValueError for an email that would take the parser minutes, or all memory."""
    lines = max(source.count(b"\n"), source.count(b"\r"))
    if lines > MAX_LINES or source.count(b"\n--") + source.count(b"\r--") > MAX_BOUNDARIES:
        raise ValueError("too many lines or parts")


def _walk(email: ParsedEmail, part: Message, depth: int, left: _Left, texts: list[TextPart] | None) -> None:
    """Collect texts and files of a part. Without `texts` its texts are another form of what is read elsewhere."""
    left.parts -= 1
    if depth > MAX_DEPTH or left.parts < 0:
        email.incomplete = True
        return
    kind = described(part).content_type
    if kind.startswith("message/"):
        _add_attached_email(email, part, kind)
    elif part.is_multipart():
        children = [child for child in part.get_payload() if isinstance(child, Message)]
        chosen = _alternative(children, email.lifted) if kind == "multipart/alternative" else None
        for child in children:
            _walk(email, child, depth + 1, left, texts if chosen is None or child is chosen else None)
    elif kind in {"text/plain", "text/html"} and not _is_file(part):
        if texts is not None and (text := _text(part, kind, left, email.lifted)) is not None:
            texts.append(text)
    elif kind not in _SIGNATURES:
        stored = _stored(part, email.lifted)
        if stored or described(part).file_name:
            email.files.append(_file(part, kind, stored))


def _alternative(children: list[Message], lifted: Mapping[str, Lifted]) -> Message | None:
    """Return the richest alternative that says something: one with HTML, else the last with text."""
    with_html = [child for child in children if any(_is_html(leaf) for leaf in _leaves(child))]
    for child in (*reversed(with_html), *reversed(children)):
        if any(_says(leaf, lifted) for leaf in _leaves(child)):
            return child
    return None


def _is_html(leaf: Message) -> bool:
    return described(leaf).content_type == "text/html"


def _says(leaf: Message, lifted: Mapping[str, Lifted]) -> bool:
    kind = described(leaf).content_type
    if kind not in {"text/plain", "text/html"} or _is_file(leaf):
        return False
    content = _content(leaf, lifted)
    return bool((_NO_WORDS.sub(b"", content) if kind == "text/html" else content).strip())


def _leaves(part: Message) -> Iterator[Message]:
    waiting, seen = [part], 0
    while waiting and seen < MAX_PARTS:
        seen += 1
        this = waiting.pop()
        if described(this).content_type.startswith("message/"):
            continue
        if this.is_multipart():
            waiting += [child for child in this.get_payload() if isinstance(child, Message)]
        else:
            yield this


def _text(part: Message, kind: str, left: _Left, lifted: Mapping[str, Lifted]) -> TextPart | None:
    its = described(part)
    text = decode(_content(part, lifted), its.charset)
    text = text.removeprefix("\ufeff").replace("\x00", "")
    text = text[: left.characters]
    left.characters -= len(text)
    if not text.strip():
        return None
    return TextPart(text, kind == "text/html", its.flowed, its.joined)


def _add_attached_email(email: ParsedEmail, part: Message, kind: str) -> None:
    """Add an attached email as one file; of the reports of mail servers only such as hold an email."""
    payload = part.get_payload()
    inner = payload[0] if isinstance(payload, list) and payload else None
    if kind == "message/rfc822" and isinstance(inner, Message):
        name = described(part).file_name or f"{header_of(inner, 'subject')[:80] or 'email'}.eml"
        content = safely(inner.as_bytes, b"") or safely(lambda: inner.as_string().encode(errors="replace"), b"")
        email.files.append(FilePart(name, kind, put_back(content, email.lifted)))
    elif name := described(part).file_name:
        email.files.append(FilePart(name, kind, put_back(safely(part.as_bytes, b""), email.lifted)))


def _file(part: Message, kind: str, stored: bytes | Lifted) -> FilePart:
    content_id = header_of(part, "content-id").strip("<> ")
    its = described(part)
    return FilePart(its.file_name, kind, stored, content_id, its.disposition == "inline" or bool(content_id))


def _is_file(part: Message) -> bool:
    its = described(part)
    return its.disposition == "attachment" or bool(its.file_name)


def _stored(part: Message, lifted: Mapping[str, Lifted]) -> bytes | Lifted:
    """Return the content of a part, or where it is if it was lifted out."""
    if lifted:
        payload = part.get_payload()
        if isinstance(payload, str) and (found := lifted.get(payload.strip())):
            return replace(found, is_base64=header_of(part, "content-transfer-encoding").lower() == "base64")
    return _content(part, {})


def _content(part: Message, lifted: Mapping[str, Lifted]) -> bytes:
    if lifted and isinstance(stored := _stored(part, lifted), Lifted):
        return stored.content
    content = safely(lambda: part.get_payload(decode=True), b"")
    return content if isinstance(content, bytes) else b""
