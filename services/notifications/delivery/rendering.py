"""Render an email's rows to bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

from services.notifications.delivery.message_selection import EmailBatch
from services.notifications.delivery.timing import is_digest
from services.notifications.mail.addresses import AddressError
from services.notifications.mail.message import (
    Brand,
    ContentFile,
    ContentMessage,
    Digest,
    EmailContent,
    Section,
    compose,
    compose_with_fingerprints,
    message_id,
)
from services.notifications.mail.reply_addresses import (
    make_bounce_address,
    make_reply_address,
    make_unsubscribe_address,
)
from services.notifications.mail.unsubscribe_links import unsubscribe_link
from services.notifications.models import Email, Person
from services.notifications.rules import Audience, NotificationType
from services.notifications.settings import EmailSettings
from shared.text import preview

DELETED_CUSTOMER = "Deleted customer"
_KINDS: Mapping[str | None, Literal["note", "assignment"]] = {
    NotificationType.MENTION: "note",
    NotificationType.ASSIGNED: "assignment",
}


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """What is stored of an email's address for replies."""

    token_hash: bytes
    newest_number: int
    fingerprints: bytes
    as_note: bool = False


@dataclass(frozen=True, slots=True)
class RenderedEmail:
    """An email that is ready to send. `envelope_from` is where mail servers report that it did not arrive."""

    message_id: str
    envelope_from: str
    to_address: str
    content: bytes
    reply: ReplyTo | None = None


def render_email(
    email: Email,
    batch: EmailBatch,
    people: Mapping[str, Person],
    previous_id: str | None,
    now: datetime,
    settings: EmailSettings,
    unsubscribe_key: bytes,
    sections: Mapping[UUID, Section] = MappingProxyType({}),
) -> RenderedEmail:
    """Render an email with the messages of a batch; `previous_id` is the Message-ID of the email before it.

    It is rendered again for each attempt. Its date is when it was first claimed, so that the same names and settings
    give the same bytes.

    A customer unsubscribes with the link and the address that the `unsubscribe_key` signs. A digest has the start of
    each message, and `sections` are their conversations.

    Raises AddressError for an address that cannot be written in a header.
    """
    audience = Audience(email.audience)
    to_customer, to_support = audience is Audience.CUSTOMER, audience is Audience.SUPPORT
    recipient = None if to_support else people.get(email.recipient_id)
    address = settings.support_email if to_support else recipient and recipient.email
    if not address:
        raise AddressError("the email has no address")
    messages = batch.messages
    if is_digest(email):
        digest = _digest(email, batch, people, previous_id, now, settings, sections)
        composed = compose(digest, brand_of(settings))
        return RenderedEmail(digest.message_id, _envelope_from(email, settings), address, composed)
    names = [sender_name(people.get(row.sender_id), row.sender_id, audience, settings) for row in messages]
    content = EmailContent(
        message_id=email.message_id or message_id(email.id, settings.email_from),
        audience=audience.value,
        conversation_id=email.conversation_id,
        subject=email.subject or "",
        to_address=address,
        to_name=recipient.name if recipient else None,
        locale=recipient.locale if recipient else None,
        time_zone=recipient.zoneinfo if recipient else None,
        created_at=now if email.message_id is None or email.claimed_at is None else email.claimed_at,
        thread=[previous_id] if previous_id else [],
        messages=[
            ContentMessage(
                row.number, name, row.body, row.created_at, _files(row.files), _KINDS.get(row.type, "message")
            )
            for row, name in zip(messages, names, strict=True)
        ],
        from_name=None if to_customer else names[0],
    )
    if to_customer:
        content = replace(content, unsubscribe_link=unsubscribe_link(settings.public_url, unsubscribe_key, email.id))
    envelope_from = _envelope_from(email, settings)
    if settings.inbound_domain is None or settings.inbound_secret is None:
        return RenderedEmail(content.message_id, envelope_from, address, compose(content, brand_of(settings)))
    secret = settings.inbound_secret.get_secret_value()
    if not to_customer and settings.inbound_authserv_id is None:  # nothing would show that an admin answers
        return RenderedEmail(content.message_id, envelope_from, address, compose(content, brand_of(settings)))
    reply_to, token_hash = make_reply_address(secret, email.id, settings.inbound_domain)
    content = replace(content, reply_to=reply_to)
    if to_customer:
        unsubscribe_address = make_unsubscribe_address(unsubscribe_key, email.id, settings.inbound_domain)
        content = replace(content, unsubscribe_address=unsubscribe_address)
    composed, fingerprints = compose_with_fingerprints(content, brand_of(settings))
    reply = ReplyTo(token_hash, messages[-1].number, fingerprints, content.is_for_admins_only)
    return RenderedEmail(content.message_id, envelope_from, address, composed, reply)


def _envelope_from(email: Email, settings: EmailSettings) -> str:
    if settings.inbound_domain is None or settings.inbound_secret is None:
        return settings.email_from
    return make_bounce_address(settings.inbound_secret.get_secret_value(), email.id, settings.inbound_domain)


def _digest(
    email: Email,
    batch: EmailBatch,
    people: Mapping[str, Person],
    previous_id: str | None,
    now: datetime,
    settings: EmailSettings,
    sections: Mapping[UUID, Section],
) -> EmailContent:
    """Return a digest: the start of each message, grouped by conversation, those with the oldest message first."""
    admin = people.get(email.recipient_id)
    grouped: dict[UUID, list[ContentMessage]] = {}
    for row in sorted(batch.messages, key=lambda row: (row.created_at, row.message_id)):
        name = sender_name(people.get(row.sender_id), row.sender_id, Audience.ADMIN, settings)
        text = preview(row.body) or next((file["name"] for file in row.files or ()), "")
        section = sections[row.message_id]
        others = grouped.setdefault(section.conversation_id, [])
        others.append(
            ContentMessage(
                row.number,
                name,
                text,
                row.created_at,
                kind=_KINDS.get(row.type, "message"),
                section=None if others else section,
            )
        )
    return EmailContent(
        message_id=email.message_id or message_id(email.id, settings.email_from),
        audience=Audience.ADMIN.value,
        conversation_id=email.conversation_id,
        subject="",
        to_address=(admin and admin.email) or "",
        to_name=admin.name if admin else None,
        locale=admin.locale if admin else None,
        time_zone=admin.zoneinfo if admin else None,
        created_at=now if email.message_id is None or email.claimed_at is None else email.claimed_at,
        thread=[previous_id] if previous_id else [],
        messages=[message for messages in grouped.values() for message in messages],
        digest=Digest(len(grouped), batch.more),
    )


def sender_name(person: Person | None, sender_id: str, audience: Audience, settings: EmailSettings) -> str:
    """Return a sender's name: without one, customers see the store's name, and support and admins see the id."""
    if person is not None and person.name:
        return person.name
    return settings.store_name if audience is Audience.CUSTOMER else actor_name(person, sender_id)


def actor_name(person: Person | None, user_id: str) -> str:
    """Return a user's name as admins see it."""
    if person is not None and person.deleted:
        return DELETED_CUSTOMER
    return (person and person.name) or user_id


def _files(files: Sequence[Mapping[str, Any]] | None) -> Sequence[ContentFile]:
    return [ContentFile(UUID(file["id"]), file["name"], file["size"]) for file in files or ()]


def brand_of(settings: EmailSettings) -> Brand:
    """Return the store as its emails show it."""
    return Brand(
        store_name=settings.store_name,
        email_from=settings.email_from,
        public_url=settings.public_url.rstrip("/"),
        reply_to=settings.email_reply_to,
        time_zone=settings.time_zone,
        locale=settings.locale,
    )
