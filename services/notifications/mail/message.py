"""A mail as bytes, from what was said: headers, text and HTML. The same input makes the same bytes."""

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unicodedata import category
from uuid import UUID, uuid5

from babel.support import NullTranslations
from css_inline import CSSInliner
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from jinja2.ext import Extension
from markupsafe import Markup, escape

from services.notifications.mail.addresses import addr_spec, domain_of, message_id, sender_address, sender_name
from services.notifications.mail.bodies import render_body
from services.notifications.mail.datetimes import format_moment, known_zone
from shared.text import preview
from shared.translations import find_language, install_translations

__all__ = ["Brand", "ContentMessage", "EmailContent", "compose", "message_id"]

LOCALE = Path(__file__).parent / "locale"
MAX_NAME = 100
LONG = 30_000  # bytes of HTML: some mail programs cut it off after 100,000 or so, the link at its end too
MAX_LINE = 900  # characters of a header that is not folded; a line may have 998
NOT_ASCII = bytes(range(128, 256))
# Control characters, lone surrogates, line and paragraph separators.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# Embeddings, overrides and isolates: in a header they would turn round what stands after them.
DIRECTION_CONTROLS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


@dataclass(frozen=True, slots=True)
class Brand:
    """The store as its mails show it; `email_from` is an address or `Name <address>`."""

    store_name: str
    email_from: str
    public_url: str
    reply_to: str | None
    time_zone: str
    locale: str


@dataclass(frozen=True, slots=True)
class ContentMessage:
    """One message of the conversation, as its reader sees it."""

    number: int
    sender_name: str
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EmailContent:
    """All that is particular to one mail.

    `thread` holds the Message-IDs of the earlier mails of this conversation to this recipient, oldest
    first. `from_name` is the customer's name, for support mails. `locale` and `time_zone` are the
    recipient's and may be anything; unknown ones fall back to the brand's.
    """

    message_id: str
    audience: Literal["customer", "support"]
    conversation_id: UUID
    subject: str
    to_address: str
    to_name: str | None
    locale: str | None
    time_zone: str | None
    created_at: datetime
    thread: Sequence[str]
    messages: Sequence[ContentMessage]
    from_name: str | None = None


def compose(mail: EmailContent, brand: Brand) -> bytes:
    """Return the mail as it goes over the wire: CRLF, ASCII but for an address that cannot be.

    Raises ValueError when the recipient's or the brand's address cannot be written in a header.
    """
    text, html = _render(mail, brand)
    head = "".join(f"{name}: {value}\r\n" for name, value in _headers(mail, brand))
    # "=_" can stand neither in quoted-printable text nor in base64, so no message can contain the boundary.
    boundary = f"=_{uuid5(mail.conversation_id, mail.message_id).hex}"
    head += f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="{boundary}"\r\n'
    parts = (_part(boundary, kind, content) for kind, content in (("plain", text), ("html", html)))
    return b"".join([head.encode(), *parts, f"\r\n--{boundary}--\r\n".encode()])


def _part(boundary: str, kind: str, content: str) -> bytes:
    """Write a part of a mail by hand, too: the email package takes more time for it than all the rest does together.

    Base64 when it is shorter, as for Chinese or emoji, which quoted-printable makes three times as long.
    """
    data = content.replace("\n", "\r\n").encode()
    if len(data.translate(None, NOT_ASCII)) > len(data) * 0.8:
        encoding, encoded = "quoted-printable", b2a_qp(data)
    else:
        encoding, line = "base64", b2a_base64(data, newline=False)
        encoded = b"\r\n".join(line[start : start + 76] for start in range(0, len(line), 76))
    head = (
        f'\r\n--{boundary}\r\nContent-Type: text/{kind}; charset="utf-8"\r\n'
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode() + encoded


def _headers(mail: EmailContent, brand: Brand) -> Iterator[tuple[str, str]]:
    """Yield the headers, encoded and folded.

    They are written here and not by the email package, whose folding loses spaces between encoded words
    and turns long ids into encoded words.
    """
    root = message_id(uuid5(mail.conversation_id, mail.audience), brand.email_from)
    earlier = [root, *(_one_line(sent) for sent in mail.thread[-1:])]
    yield "Date", format_datetime(mail.created_at.astimezone(UTC))
    yield "From", _mailbox("From", _sender_name(mail, brand), addr_spec(sender_address(brand.email_from)))
    yield "To", _mailbox("To", mail.to_name or "", addr_spec(mail.to_address))
    if brand.reply_to and mail.audience == "customer":
        name = sender_name(brand.reply_to) or brand.store_name
        yield "Reply-To", _mailbox("Reply-To", name, addr_spec(sender_address(brand.reply_to)))
    # Never "Re:": the same subject on every mail threads in all clients, and is what the customer typed.
    yield "Subject", _encoded("Subject", _one_line(mail.subject))
    yield "Message-ID", _one_line(mail.message_id)
    yield "In-Reply-To", earlier[-1]
    yield "References", " ".join(earlier)
    yield "List-Id", f"<{mail.audience}-messages.{domain_of(brand.email_from)}>"
    yield "Auto-Submitted", "auto-generated"
    yield "X-Auto-Response-Suppress", "All"


def _sender_name(mail: EmailContent, brand: Brand) -> str:
    name = sender_name(brand.email_from) or brand.store_name
    if mail.audience == "support" and mail.from_name:
        return f"{preview(_one_line(mail.from_name), MAX_NAME // 2)} ({name})"
    return name


def _one_line(text: str) -> str:
    """Return `text` without anything that could end a header or reorder it, white space collapsed."""
    if not text.isprintable():
        text = "".join(c if category(c) not in UNPRINTABLE else " " for c in text if c not in DIRECTION_CONTROLS)
    return " ".join(text.split())


def _encoded(header: str, text: str) -> str:
    if text.isascii() and "=?" not in text and len(text) < MAX_LINE:
        return text
    return Header(text, "utf-8", header_name=header).encode(linesep="\r\n")


def _mailbox(header: str, name: str, address: str) -> str:
    name = preview(_one_line(name), MAX_NAME)
    if not name:
        return address
    encoded = _encoded(header, name)
    if encoded == name:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        encoded = f'"{quoted}"'
    return f"{encoded}\r\n <{address}>"


def _render(mail: EmailContent, brand: Brand) -> tuple[str, str]:
    """Return the text and the HTML of a mail."""
    zone = known_zone([mail.time_zone, brand.time_zone])
    language = find_language(LOCALE, [mail.locale, brand.locale])
    path = "dashboard/messages" if mail.audience == "customer" else "admin/dashboard/conversation"
    bodies = [render_body(message.body) for message in mail.messages]
    values: dict[str, Any] = {
        "language": language.locale.language,
        **_framing(mail, brand, language.translations.gettext),
        "store_name": _one_line(brand.store_name),
        "subject": _one_line(mail.subject),
        "link": f"{brand.public_url.rstrip('/')}/{path}/{mail.conversation_id}/",
        "preview": preview(_one_line(mail.messages[0].body[:MAX_LINE])),
        "long": sum(len(body.html.encode()) for body in bodies) > LONG,
        "messages": [
            {
                "sender_name": _one_line(message.sender_name),
                "time": format_moment(message.created_at, language.locale, zone),
                "body": body,
            }
            for message, body in zip(mail.messages, bodies, strict=True)
        ],
    }
    templates = _templates(language.translations)
    text, html = (templates.get_template(f"message.{kind}.jinja").render(values) for kind in ("txt", "html"))
    return text, html


def _framing(mail: EmailContent, brand: Brand, gettext: Callable[[str], str]) -> dict[str, str]:
    """Say what stands around the messages: who has written, where to answer, why this mail came."""
    store = _one_line(brand.store_name)
    if mail.audience == "support":
        customer = _one_line(mail.from_name or "") or _one_line(mail.messages[0].sender_name)
        return {
            **_headline(gettext("%(customer)s has written to %(store)s"), customer=customer, store=store),
            "notice": gettext("Replies to this email do not reach the customer. To answer, open the conversation:"),
            "why": "",
        }
    notice = gettext(
        "Please do not reply to this email: replies by email are not read. To answer, open your conversation:"
    )
    return {
        **_headline(gettext("%(store)s has written to you"), store=store),
        "notice": "" if brand.reply_to else notice,
        "why": gettext("You receive this email because of your conversation with %(store)s.") % {"store": store},
    }


def _headline(sentence: str, **names: str) -> dict[str, str]:
    """Put names into a sentence; in HTML a name of another script does not turn round what stands beside it."""
    isolated = {key: Markup("<bdi>{}</bdi>").format(name) for key, name in names.items()}
    return {"headline": sentence % names, "headline_html": escape(sentence) % isolated}


class _InlinedStyles(Extension):
    """Puts the rules of a template's style sheet on its elements when it is compiled, and so once for all mails.

    The template is read as HTML for that, its blocks as comments; an expression must not contain `<`, `>` or `&`, which
    would come back as entities.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002 - Jinja's own
        if not (name or "").endswith(".html.jinja"):
            return source
        # Rules for dark mode and phones cannot be inlined: they stay where they are, behind the character set, which is
        # looked for in the first 1024 bytes only.
        inliner = CSSInliner(load_remote_stylesheets=False)
        inlined = inliner.inline(re.sub(r"{%(.*?)%}", r"<!--%\1%-->", source))
        return re.sub(r"<!--%(.*?)%-->", r"{%\1%}", inlined)


@cache
def _templates(translations: NullTranslations) -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        extensions=[_InlinedStyles],
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    install_translations(templates, translations)
    return templates
