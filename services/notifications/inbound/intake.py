"""Take an email in: decide what becomes of it, and keep it as a row."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from email.message import Message
from typing import Final
from uuid import UUID

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.binding import Anyone, Target
from services.notifications.inbound.held_notices import ONCE_A_DAY_SQL, TELL_SENDER_SQL, TOLD
from services.notifications.inbound.loops import automatic_reason, sender_mailbox
from services.notifications.inbound.parsing.mime import header_of, parse_headers
from services.notifications.inbound.senders import resolve_reply, resolve_without_token, why_held
from services.notifications.rules import (
    HELD_BYTES,
    HELD_OF_CONVERSATION,
    HELD_OF_SENDER,
    HELD_OF_STRANGERS,
    IGNORED_KEPT_PER_HOUR,
    INBOUND_PER_HOUR,
    InboundKind,
    InboundReason,
    InboundState,
)
from shared.database import Driver

# Bytes from which an email is sent to the database in two halves: the driver copies what it sends twice.
LARGE: Final = 4 * 2**20
MAX_MESSAGE_ID: Final = 500  # characters; a longer one does not identify an email


@dataclass(frozen=True, slots=True)
class TakenIn:
    """A row of an email, and whether it is new: the same email may arrive again."""

    id: UUID
    state: InboundState
    reason: InboundReason | None
    is_new: bool


async def take_in(
    connection: Driver, target: Target, envelope_from: str | None, content: bytes, trusted: TrustedResults
) -> TakenIn | None:
    """Keep an email as a row, with what becomes of it. One that is already there stays as it is.

    Return None if its conversation or customer was deleted while the email was transferred.
    """
    message = parse_headers(content)
    sender = sender_mailbox(message)
    authentic = None if sender is None else trusted.of(message, sender)
    same_as = same_email(message, content)
    if isinstance(target, Anyone):
        bound = await resolve_without_token(connection, message, sender, same_as, authentic=authentic is True)
    else:
        bound = await resolve_reply(connection, target, sender)
    reason = automatic_reason(message, envelope_from)
    state = InboundState.RECEIVED if reason is None else InboundState.IGNORED
    if reason is None and (held := why_held(bound, sender, authentic=authentic, required=trusted.required)):
        state, reason = InboundState.HELD, held
    kept = None if reason is not None and state is InboundState.IGNORED and isinstance(target, Anyone) else content
    values = (bound.conversation_id, bound.email_id, bound.user_id, bound.newest_number, same_as, sender)
    told = authentic is True and reason in TOLD
    rest = memoryview(kept)[len(kept) // 2 :] if kept is not None and len(kept) > LARGE else None
    begun = kept if kept is None or rest is None else memoryview(kept)[: len(kept) // 2]
    async with connection.transaction() if rest is not None else nullcontext():
        row = await connection.fetchrow(_INSERT, *values, len(content), begun, state, reason, bound.kind, *_CAPS, told)
        if row is not None and rest is not None:
            await connection.execute(_APPEND, row["id"], rest)
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


def _reason(value: str | None) -> InboundReason | None:
    return InboundReason(value) if value else None


_CAPS: Final = (INBOUND_PER_HOUR, HELD_OF_CONVERSATION, HELD_OF_SENDER, HELD_OF_STRANGERS, HELD_BYTES)
_WAITS_OR_POSTED: Final = f"state in ('{InboundState.RECEIVED}', '{InboundState.POSTED}')"
# UUIDv7 ids are in the order of time. A subquery makes the bound once, so that PostgreSQL can use the indexes.
# The deletion of the conversation locks its mark: it erases this row, or is seen here. Its customer may have been
# merged while the email was transferred.
# What is held is counted only for an email that would be held.
_INSERT: Final = f"""
with mark as (select deleted_at from marks where conversation_id = $1 for share),
email (conversation_id, email_id, user_id, read_up_to, same_as, sender, size, original, state, reason, kind) as (
    values ($1::uuid, $2::uuid, coalesce((select merged_into from people where id = $3), $3::text), $4::int, $5::text,
        $6::text, $7::int, $8::bytea, $9::text, $10::text, $11::text)
), counted as (
    select email.*, state = '{InboundState.RECEIVED}' and (
        (
            select count(*) from inbound_emails
            where conversation_id = $1 and id > (select uuidv7(interval '-1 hour')) and {_WAITS_OR_POSTED}
        ) >= $12::int
        or $11 = '{InboundKind.CONVERSATION}' and (
            select count(*) from inbound_emails
            where user_id = email.user_id and id > (select uuidv7(interval '-1 hour')) and kind = $11
                and {_WAITS_OR_POSTED}
        ) >= $12
    ) as too_many
    from email
), judged as (
    select counted.*, state = '{InboundState.HELD}' or too_many as held from counted
), bounded as (
    select judged.*, held and (
        (select count(*) from inbound_emails where conversation_id = $1 and state = '{InboundState.HELD}') >= $13::int
        or (
            select count(*) from inbound_emails
            where state = '{InboundState.HELD}' and from_address = $6 and id > (select uuidv7(interval '-1 day'))
        ) >= $14::int
        or $6 is null and (
            select count(*) from inbound_emails
            where state = '{InboundState.HELD}' and from_address is null and id > (select uuidv7(interval '-1 day'))
        ) >= $14
        or $11 = '{InboundKind.CONVERSATION}' and (
            select count(*) >= $15::int or coalesce(sum(inbound_emails.size), 0) > $16::bigint from inbound_emails
            where state = '{InboundState.HELD}' and kind = '{InboundKind.CONVERSATION}'
        )
    ) as too_many_held, state = '{InboundState.IGNORED}' and (
        select count(*) from (
            select from inbound_emails
            where conversation_id = $1 and id > (select uuidv7(interval '-1 hour')) and state = '{InboundState.IGNORED}'
            limit {IGNORED_KEPT_PER_HOUR}
        ) as earlier
    ) = {IGNORED_KEPT_PER_HOUR} as too_many_ignored
    from judged
), taken as (
insert into inbound_emails
    (conversation_id, email_id, user_id, read_up_to, same_as, from_address, size, original, state, reason, finished_at,
        kind)
select conversation_id, email_id, user_id, read_up_to, same_as, sender, size,
    case when not too_many_held and not too_many_ignored then original end,
    case when too_many_held then '{InboundState.IGNORED}' when held then '{InboundState.HELD}' else state end,
    case when too_many_held then '{InboundReason.TOO_MANY_HELD}' when too_many then '{InboundReason.TOO_MANY}'
        else reason end,
    case when too_many_held or state = '{InboundState.IGNORED}' then clock_timestamp() end,
    kind
from bounded
where not exists (select from mark where deleted_at is not null)
    and not exists (select from people where id = bounded.user_id and deleted)
on conflict (conversation_id, same_as) do nothing
returning id, state, reason
), told as (
    {INBOUND_UPDATED_SQL} taken where state = '{InboundState.HELD}'
), noticed as (
    {TELL_SENDER_SQL}
    select $6, id from taken where $17::bool and state = '{InboundState.HELD}' and $6 is not null
    {ONCE_A_DAY_SQL}
)
select id, state, reason from taken
"""  # noqa: S608 - built from constants
_APPEND: Final = "update inbound_emails set original = original || $2::bytea where id = $1"
_FIND: Final = "select id, state, reason from inbound_emails where conversation_id = $1 and same_as = $2"
