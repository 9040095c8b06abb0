"""Unsubscribe by an email to a `leave+` address: it stops the emails to its customer about the conversation.

Mail programs send it for their users, from any address and with any text. Anybody who has our email may send it, as
with the link beside it. A second one, or the same again, changes nothing: not even when the customer has written since
and gets emails again. What programs answer by themselves is dropped.
"""

from dataclasses import dataclass
from email.message import Message
from typing import Final
from uuid import UUID

import structlog

from services.notifications.event_log.append import STOP_UPDATED_SQL
from services.notifications.inbound.intake import same_email
from services.notifications.inbound.loops import sender_mailbox
from services.notifications.inbound.parsing.mime import header_of, parse_headers
from services.notifications.mail.reply_addresses import is_signed
from services.notifications.rules import InboundReason, InboundState
from shared.database.engine import Driver

# Not those that only say that a program wrote it: one that unsubscribes for its user may say so.
_ANSWERS: Final = frozenset(
    {"x-autoreply", "x-auto-reply", "x-mail-autoreply", "x-autorespond", "x-vacation", "x-failed-recipients"}
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Unsubscriber:
    """Whom an address to unsubscribe stands for: the customer and the conversation of one of our emails."""

    email_id: UUID
    conversation_id: UUID
    user_id: str


async def find_unsubscriber(connection: Driver, email_id: UUID, signature: bytes) -> Unsubscriber | None:
    """Return whom the address with an email's id and a signature stands for; None if we made no such address."""
    row = await connection.fetchrow(_FIND, email_id)
    if row is None or not is_signed(row["leave_key"], email_id, signature):
        return None
    return Unsubscriber(email_id, row["conversation_id"], row["user_id"])


async def unsubscribe(
    connection: Driver, unsubscriber: Unsubscriber, envelope_from: str | None, content: bytes
) -> None:
    """Stop emails, with a row for the email that did."""
    message = parse_headers(content)
    if _is_answer(message, envelope_from):
        log.info("email to an address to unsubscribe dropped, it is automatic", email_id=str(unsubscriber.email_id))
        return
    values = (unsubscriber.conversation_id, unsubscriber.email_id, unsubscriber.user_id)
    same_as = f"leave {same_email(message, content)}"  # the same email may be a reply as well
    muted = await connection.fetchval(_UNSUBSCRIBE, *values, same_as, sender_mailbox(message), len(content))
    log.info("emails stopped by email" if muted else "emails were stopped before", email_id=str(unsubscriber.email_id))


def _is_answer(message: Message, envelope_from: str | None) -> bool:
    names = {name.lower() for name in message.keys()}  # noqa: SIM118 - no mapping
    is_report = envelope_from == "" or header_of(message, "content-type").lower().startswith("multipart/report")
    is_reply = header_of(message, "auto-submitted").lower().startswith("auto-replied")
    return is_report or is_reply or not names.isdisjoint(_ANSWERS)


_FIND: Final = """
select conversation_id, recipient_id as user_id, (select leave_key from gate) as leave_key
from emails where id = $1 and audience = 'customer'
"""
# Where emails are stopped already nothing is written, so that no number of such emails fills the table.
_UNSUBSCRIBE: Final = f"""
with mark as (select deleted_at from marks where conversation_id = $1 for share),
unsubscriber as (select coalesce((select merged_into from people where id = $3), $3::text) as id), -- merged meanwhile
taken as (
    insert into inbound_emails (conversation_id, email_id, user_id, read_up_to, same_as, from_address, size, state,
        reason, finished_at)
    select $1::uuid, $2::uuid, unsubscriber.id, 0, $4::text, $5::text, $6::int, '{InboundState.IGNORED}',
        '{InboundReason.LEFT}', clock_timestamp()
    from unsubscriber
    where not exists (select from mutes where user_id = unsubscriber.id and conversation_id = $1)
        and not exists (select from mark where deleted_at is not null)
        and not exists (select from people where id = unsubscriber.id and deleted)
    on conflict (conversation_id, same_as) do nothing
    returning conversation_id, user_id
), muted as (
    insert into mutes (user_id, conversation_id) select user_id, conversation_id from taken
    on conflict do nothing returning id
), logged as (
    {STOP_UPDATED_SQL} muted
)
select count(*) from muted
"""  # noqa: S608 - built from constants
