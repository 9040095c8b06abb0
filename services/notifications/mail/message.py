"""Compose an email as bytes: headers, text and HTML. The same input gives the same bytes."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

from babel.support import NullTranslations
from css_inline import CSSInliner
from jinja2 import Environment, FileSystemLoader, select_autoescape
from jinja2.ext import Extension
from markupsafe import Markup, escape

from services.notifications.mail.addresses import addr_spec, domain_of, message_id, sender_address, sender_name
from services.notifications.mail.bodies import render_body
from services.notifications.mail.datetimes import format_local_time
from services.notifications.mail.fingerprints import fingerprint
from services.notifications.mail.headers import (
    MAX_LINE,
    MAX_NAME,
    body_part,
    encoded_header,
    header_line,
    mailbox_header,
)
from shared.file_sizes import format_size
from shared.text import preview
from shared.time_zones import known_zone
from shared.translations import Language, TranslatedEnvironment, find_language

__all__ = ["Brand", "ContentMessage", "EmailContent", "compose", "message_id"]

LOCALE = Path(__file__).parent / "locale"
PREFERENCES = "/admin/dashboard/conversation/notifications/"
LONG = 30_000  # bytes of HTML: some clients clip emails at about 100,000, including the link at the end


@dataclass(frozen=True, slots=True)
class Brand:
    """The store as its emails show it; `email_from` is an address or `Name <address>`."""

    store_name: str
    email_from: str
    public_url: str
    reply_to: str | None
    time_zone: str
    locale: str


@dataclass(frozen=True, slots=True)
class ContentFile:
    """A file of a message. Emails link to it and do not contain it."""

    id: UUID
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Section:
    """A conversation in a digest."""

    conversation_id: UUID
    subject: str


@dataclass(frozen=True, slots=True)
class Digest:
    """What makes an email a digest: about how many conversations it is, and whether there is more than it has."""

    conversations: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class ContentMessage:
    """One message of the conversation, as its recipient sees it. For admins also a note, or an assignment.

    `section` is the conversation that begins with it in a digest.
    """

    number: int
    sender_name: str
    body: str
    created_at: datetime
    files: Sequence[ContentFile] = ()
    kind: Literal["message", "note", "assignment"] = "message"
    section: Section | None = None


@dataclass(frozen=True, slots=True)
class EmailContent:
    """The content of one email.

    `thread` contains the Message-IDs of earlier emails about this conversation to this recipient, oldest first.
    `from_name` is the first sender's name, for emails to support and admins. `locale` and `time_zone` are the
    recipient's and may be any string; unknown ones fall back to the brand's. `reply_to` is this email's own address for
    answers; without one, it is the brand's. `unsubscribe_link` stops emails to a customer, as does an email to
    `unsubscribe_address`.
    """

    message_id: str
    audience: Literal["customer", "support", "admin"]
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
    reply_to: str | None = None
    unsubscribe_link: str | None = None
    unsubscribe_address: str | None = None
    digest: Digest | None = None

    @property
    def is_for_admins_only(self) -> bool:
        """Whether it tells of a note or an assignment: an answer to that is a note, and never for the customer."""
        return any(message.kind != "message" for message in self.messages)


def compose(email: EmailContent, brand: Brand) -> bytes:
    """Return the email as sent to the server: with CRLF, in ASCII except for a non-ASCII address.

    Raises ValueError if the recipient's or the brand's address cannot be written in a header.
    """
    if email.digest is not None:
        email = replace(
            email, subject=_digest_subject(email.digest, find_language(LOCALE, [email.locale, brand.locale]))
        )
    text, html, _ = _render(email, brand)
    return _write(email, brand, text, html)


def compose_with_fingerprints(email: EmailContent, brand: Brand) -> tuple[bytes, bytes]:
    """Return the email as `compose` does, and the fingerprints by which a reply's quote of it is recognised."""
    text, html, quotable = _render(email, brand)
    around = (_preview(email), header_line(brand.store_name), header_line(email.subject))
    return _write(email, brand, text, html), fingerprint([*around, quotable])


def _write(email: EmailContent, brand: Brand, text: str, html: str) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in _headers(email, brand))
    # "=_" occurs neither in quoted-printable text nor in base64, so no message can contain the boundary.
    boundary = f"=_{uuid5(email.conversation_id, email.message_id).hex}"
    head += f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="{boundary}"\r\n'
    between = f"\r\n--{boundary}\r\n".encode()
    parts = (between + body_part(kind, content) for kind, content in (("plain", text), ("html", html)))
    return b"".join([head.encode(), *parts, f"\r\n--{boundary}--\r\n".encode()])


def _headers(email: EmailContent, brand: Brand) -> Iterator[tuple[str, str]]:
    """Yield the headers, encoded and folded.

    The folding of the `email` package loses spaces between encoded words and turns long ids into encoded words.
    """
    root = message_id(uuid5(email.conversation_id, email.audience), brand.email_from)
    earlier = [root, *(header_line(sent) for sent in email.thread[-1:])]
    yield "Date", format_datetime(email.created_at.astimezone(UTC))
    yield "From", mailbox_header("From", _sender_name(email, brand), addr_spec(sender_address(brand.email_from)))
    yield "To", mailbox_header("To", email.to_name or "", addr_spec(email.to_address))
    reply_to = email.reply_to or brand.reply_to
    if reply_to and (email.reply_to or email.audience == "customer"):
        name = sender_name(reply_to) or brand.store_name
        yield "Reply-To", mailbox_header("Reply-To", name, addr_spec(sender_address(reply_to)))
    # Never "Re:": the same subject on every email threads in all clients, and is what the customer typed.
    yield "Subject", encoded_header("Subject", header_line(email.subject))
    yield "Message-ID", header_line(email.message_id)
    yield "In-Reply-To", earlier[-1]
    yield "References", " ".join(earlier)
    yield "List-Id", f"<{email.audience}-messages.{domain_of(brand.email_from)}>"
    if email.unsubscribe_link:
        by_email = (
            f",\r\n <mailto:{email.unsubscribe_address}?subject=unsubscribe>" if email.unsubscribe_address else ""
        )
        yield "List-Unsubscribe", f"<{email.unsubscribe_link}>{by_email}"
        if email.unsubscribe_link.startswith("https:"):  # RFC 8058
            yield "List-Unsubscribe-Post", "List-Unsubscribe=One-Click"
    yield "Auto-Submitted", "auto-generated"
    yield "X-Auto-Response-Suppress", "All"


def _sender_name(email: EmailContent, brand: Brand) -> str:
    name = sender_name(brand.email_from) or brand.store_name
    if email.audience != "customer" and email.from_name:
        return f"{preview(header_line(email.from_name), MAX_NAME // 2)} ({name})"
    return name


def _render(email: EmailContent, brand: Brand) -> tuple[str, str, str]:
    """Return the text and the HTML of an email, and the text with all that a quote of either may have, in order."""
    zone = known_zone([email.time_zone, brand.time_zone])
    language = find_language(LOCALE, [email.locale, brand.locale])
    path = "dashboard/messages" if email.audience == "customer" else "admin/dashboard/conversation"
    root = f"{brand.public_url.rstrip('/')}/{path}/"
    bodies = [render_body(message.body) for message in email.messages]
    framing = _framing(email, brand, language.translations.gettext)
    values: dict[str, Any] = {
        "language": language.locale.language,
        **framing,
        "store_name": header_line(brand.store_name),
        "subject": header_line(email.subject),
        "unsubscribe_link": email.unsubscribe_link,
        "link": root if email.digest is not None else f"{root}{email.conversation_id}/",
        "preview": _preview(email),
        "long": sum(len(body.html.encode()) for body in bodies) > LONG,
        "messages": [
            {
                "sender_name": _heading(message, language.translations.gettext),
                "time": format_local_time(message.created_at, language.locale, zone),
                "body": body,
                "section": message.section
                and {
                    "subject": header_line(message.section.subject),
                    "link": f"{root}{message.section.conversation_id}/",
                },
                "files": [
                    {
                        "name": header_line(file.name),
                        "size": format_size(file.size, language.locale),
                        "link": f"{brand.public_url.rstrip('/')}/attachments/{file.id}",
                    }
                    for file in message.files
                ],
            }
            for message, body in zip(email.messages, bodies, strict=True)
        ],
    }
    templates = _templates(language.translations)
    text, html = (templates.get_template(f"message.{kind}.jinja").render(values) for kind in ("txt", "html"))
    notice = framing["notice"]  # stands below the button in HTML, and in its place in the text
    return text, html, text.replace(notice, f"{framing['action']}\n{notice}") if notice else text


def _preview(email: EmailContent) -> str:
    return preview(header_line(_start(email.messages[0])[:MAX_LINE]))


def _start(message: ContentMessage) -> str:
    """Return a message's text, or the name of its first file if it has none."""
    return message.body or next((file.name for file in message.files), "")


def load_templates(locale: str) -> None:
    """Load all that emails in a language need, so that processes forked later share it."""
    language = find_language(LOCALE, [locale])
    for kind in ("txt", "html"):
        _templates(language.translations).get_template(f"message.{kind}.jinja")
    format_local_time(datetime.now(UTC), language.locale, known_zone(["UTC"]))


def _digest_subject(digest: Digest, language: Language) -> str:
    count, ngettext = digest.conversations, language.translations.ngettext
    return ngettext("News in %(count)d conversation", "News in %(count)d conversations", count) % {"count": count}


def _framing(email: EmailContent, brand: Brand, gettext: Callable[[str], str]) -> dict[str, str]:
    """Return the texts around the messages: the headline, where to reply, why the recipient gets this email."""
    store = header_line(brand.store_name)
    settings = f"{brand.public_url.rstrip('/')}{PREFERENCES}" if email.audience == "admin" else ""
    if email.digest is not None:
        more = gettext("There is more in the inbox:") if email.digest.has_more else ""
        return {
            **_headline(gettext("Once a day: what is new for you in %(store)s and still unread"), store=store),
            "notice": more,
            "action": gettext("Open the inbox"),
            "why": gettext("You choose which of these emails you get:"),
            "why_link": settings,
        }
    if email.audience != "customer":
        sender, kind = header_line(email.from_name or email.messages[0].sender_name), email.messages[0].kind
        headlines = {
            "message": _headline(gettext("%(customer)s sent a message to %(store)s"), customer=sender, store=store),
            "note": _headline(gettext("%(admin)s mentioned you in a note"), admin=sender),
            "assignment": _headline(gettext("%(admin)s assigned a conversation to you"), admin=sender),
        }
        return {
            **headlines[kind],
            "notice": _admins_notice(email, gettext),
            "action": gettext("View and reply"),
            "why": settings and gettext("You choose which of these emails you get:"),
            "why_link": settings,
        }
    notice = gettext("Please don't reply to this email: email replies are not read. To reply, open your conversation:")
    answer = gettext("Reply to this email, or open your conversation:")
    return {
        **_headline(gettext("%(store)s sent you a message"), store=store),
        "notice": answer if email.reply_to else "" if brand.reply_to else notice,
        "action": gettext("View and reply"),
        "why": gettext("You received this email because you have a conversation with %(store)s.") % {"store": store},
        "why_link": "",
    }


def _admins_notice(email: EmailContent, gettext: Callable[[str], str]) -> str:
    """Return what becomes of an admin's reply to an email."""
    if not email.reply_to:
        return gettext("Replies to this email don't reach the customer. To reply, open the conversation:")
    if email.is_for_admins_only:
        return gettext(
            "Your reply to this email becomes a note, which the customer does not see. Or open the conversation:"
        )
    return gettext("Your reply to this email is sent to the customer. Or open the conversation:")


def _heading(message: ContentMessage, gettext: Callable[[str], str]) -> str:
    """Return who wrote a message or a note, or assigned the conversation."""
    headings = {
        "message": "%(name)s",
        "note": gettext("%(name)s, in a note"),
        "assignment": gettext("%(name)s assigned this conversation to you"),
    }
    return headings[message.kind] % {"name": header_line(message.sender_name)}


def _headline(sentence: str, **names: str) -> dict[str, str]:
    """Insert names into a sentence. In HTML they are isolated, so that a right-to-left name does not reorder it."""
    isolated = {key: Markup("<bdi>{}</bdi>").format(name) for key, name in names.items()}
    return {"headline": sentence % names, "headline_html": escape(sentence) % isolated}


class _InlinedStyles(Extension):
    """Inlines a template's style sheet when the template is compiled, once for all emails.

    The template is parsed as HTML, its blocks as comments. Expressions must not contain `<`, `>` or `&`, which would
    become entities.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002 - Jinja's own
        if not (name or "").endswith(".html.jinja"):
            return source
        # Rules for dark mode and phones cannot be inlined. They stay after the charset declaration, which must be in
        # the first 1024 bytes.
        inliner = CSSInliner(load_remote_stylesheets=False)
        inlined = inliner.inline(re.sub(r"{%(.*?)%}", r"<!--%\1%-->", source))
        return re.sub(r"<!--%(.*?)%-->", r"{%\1%}", inlined)


@cache
def _templates(translations: NullTranslations) -> Environment:
    return TranslatedEnvironment(
        translations,
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        extensions=[_InlinedStyles],
        autoescape=select_autoescape(("html.jinja",)),
        keep_trailing_newline=True,
    )
