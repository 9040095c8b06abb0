"""Take an email in: find out whom an address stands for, decide what becomes of the email, and keep it as a row."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from typing import Final
from uuid import UUID

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.loops import automatic_reason, sender_mailbox
from services.notifications.inbound.mime import header_of, parse_headers
from services.notifications.mail.addresses import AddressError, mailbox_of
from services.notifications.mail.reply_addresses import ReplyToken
from services.notifications.rules import INBOUND_PER_HOUR, InboundReason, InboundState
from shared.database import Driver

MAX_MESSAGE_ID: Final = 500  # characters; a longer one does not identify an email


@dataclass(frozen=True, slots=True)
class Bound:
    """What an address for replies stands for. `addresses`: those of its recipient, now and when our email was sent."""

    email_id: UUID
    conversation_id: UUID
    user_id: str
    newest_number: int
    expired: bool
    conversation_deleted: bool
    user_deleted: bool
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class TakenIn:
    """A row of an email, and whether it is new: the same email may arrive again."""

    id: UUID
    state: InboundState
    reason: InboundReason | None
    is_new: bool


async def find_bound(connection: Driver, token: ReplyToken) -> Bound | None:
    """Return what a token stands for; None if there is no such token."""
    row = await connection.fetchrow(_BOUND, token.email_id, token.hash)
    if row is None:
        return None
    values = dict(row)
    addresses = {mailbox for name in ("sent_to", "now_at") if (mailbox := _mailbox(values.pop(name)))}
    return Bound(email_id=token.email_id, addresses=frozenset(addresses), **values)


async def take_in(
    connection: Driver, bound: Bound, envelope_from: str | None, content: bytes, trusted: TrustedResults
) -> TakenIn | None:
    """Keep an email as a row, with what becomes of it. One that is already there stays as it is.

    Return None if its conversation or customer was deleted while the email was transferred.
    """
    message = parse_headers(content)
    sender = sender_mailbox(message)
    reason = automatic_reason(message, envelope_from)
    state = InboundState.RECEIVED if reason is None else InboundState.IGNORED
    if reason is None and (held := _why_held(bound, sender, message, trusted)):
        state, reason = InboundState.HELD, held
    same_as = same_email(message, content)
    values = (bound.conversation_id, bound.email_id, bound.user_id, bound.newest_number, same_as, sender)
    row = await connection.fetchrow(_INSERT, *values, content, state, reason, INBOUND_PER_HOUR)
    if row is None:
        row = await connection.fetchrow(_FIND, bound.conversation_id, same_as)
        if row is None:
            return None
        return TakenIn(row["id"], InboundState(row["state"]), _reason(row["reason"]), is_new=False)
    return TakenIn(row["id"], InboundState(row["state"]), _reason(row["reason"]), is_new=True)


def same_email(message: Message, content: bytes) -> str:
    """Return what an email has in common with the same email when it arrives again: Message-ID, or its hash."""
    message_id = header_of(message, "message-id")
    if not message_id or len(message_id) > MAX_MESSAGE_ID or "\x00" in message_id:
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    return message_id


def _why_held(bound: Bound, sender: str | None, message: Message, trusted: TrustedResults) -> InboundReason | None:
    if sender is None or sender not in bound.addresses:
        return InboundReason.OTHER_SENDER
    authentic = trusted.of(message, sender)
    if authentic is False or (trusted.required and not authentic):
        return InboundReason.NOT_AUTHENTICATED
    return InboundReason.EXPIRED if bound.expired and not authentic else None


def _reason(value: str | None) -> InboundReason | None:
    return InboundReason(value) if value else None


def _mailbox(address: str | None) -> str | None:
    try:
        return mailbox_of(address) if address else None
    except AddressError:
        return None


async def oldest_waiting(connection: Driver) -> datetime | None:
    """Return when the oldest email arrived that is to be posted; None if there is none."""
    found: datetime | None = await connection.fetchval(_OLDEST)
    return found


_BOUND: Final = """
select emails.conversation_id, emails.recipient_id as user_id, address.newest_number,
    address.expires_at < clock_timestamp() as expired,
    marks.deleted_at is not null as conversation_deleted, coalesce(people.deleted, false) as user_deleted,
    emails.to_address as sent_to, people.email as now_at
from reply_addresses as address
    join emails on emails.id = address.email_id
    left join marks on marks.conversation_id = emails.conversation_id
    left join people on people.id = emails.recipient_id
where address.email_id = $1 and address.token_hash = $2 and emails.audience = 'customer'
"""
# UUIDv7 ids are in the order of time.
# The deletion of the conversation locks its mark: it erases this row, or is seen here.
_INSERT: Final = f"""
with mark as (select deleted_at from marks where conversation_id = $1 for share),
taken as (
insert into inbound_emails
    (conversation_id, email_id, user_id, read_up_to, same_as, from_address, size, original, state, reason, finished_at)
select $1::uuid, $2::uuid, $3::text, $4::int, $5::text, $6::text, length($7::bytea), $7::bytea,
    case when too_many then '{InboundState.HELD}' else $8::text end,
    case when too_many then '{InboundReason.TOO_MANY}' else $9::text end,
    case when $8::text = '{InboundState.IGNORED}' then clock_timestamp() end
from (
    select $8::text = '{InboundState.RECEIVED}' and count(*) >= $10::int as too_many
    from inbound_emails
    where conversation_id = $1 and id > uuidv7(interval '-1 hour')
        and state in ('{InboundState.RECEIVED}', '{InboundState.POSTED}')
) as counted
where not exists (select from mark where deleted_at is not null)
    and not exists (select from people where id = $3 and deleted)
on conflict (conversation_id, same_as) do nothing
returning id, state, reason
), told as (
    {INBOUND_UPDATED_SQL} taken where state = '{InboundState.HELD}'
)
select id, state, reason from taken
"""  # noqa: S608 - built from constants
_FIND: Final = "select id, state, reason from inbound_emails where conversation_id = $1 and same_as = $2"
_OLDEST: Final = f"select min(received_at) from inbound_emails where state = '{InboundState.RECEIVED}'"  # noqa: S608 - built from constants
