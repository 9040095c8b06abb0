"""From a mail's rows to its bytes: who is called what, and which mail it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.notifications.mail.addresses import AddressError
from services.notifications.mail.message import Brand, ContentMessage, EmailContent, compose, message_id
from services.notifications.models import Email, Person
from services.notifications.rules import Audience
from services.notifications.settings import MailSettings

DELETED_CUSTOMER = "Deleted customer"


@dataclass(frozen=True, slots=True)
class RenderedEmail:
    """A composed mail."""

    message_id: str
    to_address: str
    content: bytes


def render_email(
    email: Email,
    messages: Sequence[Any],
    people: Mapping[str, Person],
    earlier: str | None,
    now: datetime,
    settings: MailSettings,
) -> RenderedEmail:
    """Compose a mail of these messages; `earlier` is the Message-ID of the last mail before it.

    Raises AddressError for an address that cannot be written in a header.
    """
    audience = Audience(email.audience)
    to_support = audience is Audience.SUPPORT
    recipient = None if to_support else people.get(email.recipient_id)
    address = settings.support_email if to_support else recipient and recipient.email
    if not address:
        raise AddressError("a mail without an address")
    names = [sender_name(people.get(one.sender_id), one.sender_id, audience, settings) for one in messages]
    mail = EmailContent(
        message_id=email.message_id or message_id(email.id, settings.email_from),
        audience=audience.value,
        conversation_id=email.conversation_id,
        subject=email.subject or "",
        to_address=address,
        to_name=recipient.name if recipient else None,
        locale=recipient.locale if recipient else None,
        time_zone=recipient.zoneinfo if recipient else None,
        created_at=now,
        thread=[earlier] if earlier else [],
        messages=[
            ContentMessage(one.number, name, one.body, one.created_at)
            for one, name in zip(messages, names, strict=True)
        ],
        from_name=names[0] if to_support else None,
    )
    return RenderedEmail(mail.message_id, address, compose(mail, _brand(settings)))


def sender_name(person: Person | None, sender_id: str, audience: Audience, settings: MailSettings) -> str:
    """Name a sender: an admin to customers by name or as the store, a customer to the support by name or id."""
    if person is not None and person.name:
        return person.name
    if audience is Audience.CUSTOMER:
        return settings.store_name
    return DELETED_CUSTOMER if person is not None and person.deleted else sender_id


def _brand(settings: MailSettings) -> Brand:
    return Brand(
        store_name=settings.store_name,
        email_from=settings.email_from,
        public_url=settings.public_url.rstrip("/"),
        reply_to=settings.email_reply_to,
        time_zone=settings.time_zone,
        locale=settings.locale,
    )
