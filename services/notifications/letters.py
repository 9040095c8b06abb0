"""From a mail's rows to its bytes: who is called what, and which mail it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.mail.addresses import AddressError
from services.notifications.mail.compose import Brand, Mail, MailMessage, compose, message_id
from services.notifications.models import Email, EmailMessage, Person
from services.notifications.rules import Audience
from services.notifications.settings import MailSettings

DELETED_CUSTOMER = "Deleted customer"


@dataclass(frozen=True, slots=True)
class Letter:
    """A composed mail."""

    message_id: str
    to_address: str
    content: bytes


async def compose_email(
    session: AsyncSession, email: Email, messages: Sequence[EmailMessage], now: datetime, settings: MailSettings
) -> Letter:
    """Compose a mail of these messages. Raises AddressError for an address that cannot be written in a header."""
    audience = Audience(email.audience)
    to_support = audience is Audience.SUPPORT
    recipient = None if to_support else await session.get(Person, email.recipient_id)
    address = settings.support_email if to_support else recipient and recipient.email
    if not address:
        raise AddressError("a mail without an address")
    senders = {
        person.id: person
        for person in await session.scalars(select(Person).where(Person.id.in_({one.sender_id for one in messages})))
    }
    names = [sender_name(senders.get(one.sender_id), one.sender_id, audience, settings) for one in messages]
    mail = Mail(
        message_id=email.message_id or message_id(email.id, settings.email_from),
        audience=audience.value,
        conversation_id=email.conversation_id,
        subject=email.subject or "",
        to_address=address,
        to_name=recipient.name if recipient else None,
        locale=recipient.locale if recipient else None,
        time_zone=recipient.zoneinfo if recipient else None,
        created_at=now,
        thread=await _earlier(session, email),
        messages=[
            MailMessage(one.number, name, one.body, one.created_at) for one, name in zip(messages, names, strict=True)
        ],
        from_name=names[0] if to_support else None,
    )
    return Letter(mail.message_id, address, compose(mail, _brand(settings)))


def sender_name(person: Person | None, sender_id: str, audience: Audience, settings: MailSettings) -> str:
    """Name a sender: an admin to customers by name or as the store, a customer to the support by name or id."""
    if person is not None and person.name:
        return person.name
    if audience is Audience.CUSTOMER:
        return settings.store_name
    return DELETED_CUSTOMER if person is not None and person.deleted else sender_id


async def _earlier(session: AsyncSession, email: Email) -> list[str]:
    """Return the Message-ID of the last mail about the conversation to the same recipient, if there is one."""
    last = await session.scalar(
        select(Email.message_id)
        .where(
            Email.conversation_id == email.conversation_id,
            Email.recipient_id == email.recipient_id,
            Email.audience == email.audience,
            Email.message_id.is_not(None),
            Email.id != email.id,
        )
        .order_by(Email.claimed_at.desc())
        .limit(1)
    )
    return [last] if last else []


def _brand(settings: MailSettings) -> Brand:
    return Brand(
        store_name=settings.store_name,
        email_from=settings.email_from,
        public_url=settings.public_url.rstrip("/"),
        reply_to=settings.email_reply_to,
        time_zone=settings.time_zone,
        locale=settings.locale,
    )
