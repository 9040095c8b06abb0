"""Take an email in: decide what becomes of it, and keep it as a row.

Emails that arrive together share a statement and a commit, but not their errors.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.binding import Anyone, Bound, Target
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
from shared.batcher import Batcher
from shared.database.engine import Driver
from shared.database.transactions import ConnectionProvider

SMALL: Final = 64 * 1024  # bytes of an email that shares a statement with others
BATCH: Final = 50  # emails in a statement
GATHER: Final = 0.001  # seconds that a statement of the intake waits for emails that come together
# Bytes from which an email is sent to the database in two halves: the driver copies what it sends twice.
LARGE: Final = 4 * 2**20
MAX_MESSAGE_ID: Final = 500  # characters; a longer one does not identify an email
# What one email of a batch causes for all of them. Nothing was saved, so each can be saved alone.
_CAUSED_BY_ONE: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.DeadlockDetectedError,
    ValueError,  # a text that cannot be sent
)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """A row of an email, and whether it is new: the same email may arrive again."""

    id: UUID
    state: InboundState
    reason: InboundReason | None
    is_new: bool


class _NewEmail(NamedTuple):
    """A row of an email as it will be, unless a limit is reached. `tells`: its sender may get a notice that it is held.

    `original` is left out of an email that is kept without its bytes, or that gets them in halves.
    """

    conversation_id: UUID
    email_id: UUID | None
    author_id: str | None
    read_up_to: int
    same_as: str
    sender: str | None
    size: int
    original: bytes | None
    state: InboundState
    reason: InboundReason | None
    kind: InboundKind
    tells: bool


class Intake:
    """Keeps the emails of a process as rows."""

    def __init__(self, acquire: ConnectionProvider, trusted: TrustedResults) -> None:
        self._acquire, self._trusted = acquire, trusted
        # The limits of a conversation count what earlier emails have committed, so a batch has one of each.
        self._batcher = Batcher(self._save_batch, BATCH, gather=GATHER, key=lambda email: email.conversation_id)

    async def take_in(self, target: Target, envelope_from: str | None, content: bytes) -> TakenIn | None:
        """Keep an email as a row, with what becomes of it. One that is already there stays as it is.

        Return None if its conversation or customer was deleted while the email was transferred.
        """
        email = await self._read(target, envelope_from, content)
        row = await self._batcher.submit(email) if email.size <= SMALL else None
        if row is not None:
            return _taken_in(row, is_new=True)
        async with self._acquire() as connection:
            if (row := await _save_alone(connection, email)) is not None:
                return _taken_in(row, is_new=True)
            row = await connection.fetchrow(_FIND, email.conversation_id, email.same_as)
            return None if row is None else _taken_in(row, is_new=False)

    async def _read(self, target: Target, envelope_from: str | None, content: bytes) -> _NewEmail:
        """Decide what becomes of an email."""
        message = parse_headers(content)
        sender = sender_mailbox(message)
        authentic = None if sender is None else self._trusted.of(message, sender)
        same_as = same_email(message, content)
        if isinstance(target, Bound) and target.kind is InboundKind.MESSAGE:  # most of them: nothing to look up
            bound = target
        else:
            async with self._acquire() as connection:
                bound = await _resolve(connection, target, message, sender, same_as, authentic=authentic is True)
        reason = automatic_reason(message, envelope_from, sender)
        state = InboundState.RECEIVED if reason is None else InboundState.IGNORED
        held = why_held(bound, sender, authentic=authentic, required=self._trusted.required)
        if reason is None and held:
            state, reason = InboundState.HELD, held
        return _NewEmail(
            bound.conversation_id,
            bound.email_id,
            bound.user_id,
            bound.newest_number,
            same_as,
            sender,
            len(content),
            None if state is InboundState.IGNORED and isinstance(target, Anyone) else content,
            state,
            reason,
            bound.kind,
            authentic is True and reason in TOLD,
        )

    async def _save_batch(self, emails: Sequence[_NewEmail]) -> Sequence[Mapping[str, Any] | None]:
        """Save emails in one statement; return None for each that was not saved."""
        try:
            async with self._acquire() as connection:
                rows = await connection.fetch(TAKE_IN_SQL, *zip(*emails, strict=True), *_CAPS)
        except _CAUSED_BY_ONE:
            rows = []
        saved = {row["conversation_id"]: row for row in rows}
        return [saved.get(email.conversation_id) for email in emails]


async def _resolve(
    connection: Driver, target: Target, message: Message, sender: str | None, same_as: str, *, authentic: bool
) -> Bound:
    if isinstance(target, Anyone):
        return await resolve_without_token(connection, message, sender, same_as, authentic=authentic)
    return await resolve_reply(connection, target, sender)


async def _save_alone(connection: Driver, email: _NewEmail) -> Mapping[str, Any] | None:
    """Save an email; return None if it is there already, or if what it is for was deleted."""
    if email.original is None or email.size <= LARGE:
        row: Mapping[str, Any] | None = await connection.fetchrow(TAKE_IN_SQL, *([value] for value in email), *_CAPS)
        return row
    whole, half = memoryview(email.original), email.size // 2
    async with connection.transaction():
        row = await connection.fetchrow(TAKE_IN_SQL, *([value] for value in email._replace(original=b"")), *_CAPS)
        if row is not None:
            await connection.execute(_APPEND, row["id"], whole[:half])
            await connection.execute(_APPEND, row["id"], whole[half:])
    return row


def _taken_in(row: Mapping[str, Any], *, is_new: bool) -> TakenIn:
    return TakenIn(row["id"], InboundState(row["state"]), row["reason"] and InboundReason(row["reason"]), is_new)


def same_email(message: Message, content: bytes) -> str:
    """Return what an email has in common with the same email when it arrives again: Message-ID, or its hash."""
    message_id = header_of(message, "message-id")
    if not message_id or len(message_id) > MAX_MESSAGE_ID or "\x00" in message_id:
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    return message_id


_CAPS: Final = (INBOUND_PER_HOUR, HELD_OF_CONVERSATION, HELD_OF_SENDER, HELD_OF_STRANGERS, HELD_BYTES)
# Of the columns of an email.
_TYPES: Final = ("uuid", "uuid", "text", "int", "text", "text", "int", "bytea", "text", "text", "text", "boolean")
# Subqueries hide the values from PostgreSQL's planner. Else it would make a plan for each statement, because it expects
# less of one that is made for these values; that takes longer than the statement.
_ARRAYS: Final = ", ".join(f"(select ${number}::{type_}[])" for number, type_ in enumerate(_TYPES, 1))
_WAITS_OR_POSTED: Final = f"state in ('{InboundState.RECEIVED}', '{InboundState.POSTED}')"
# Takes in emails of different conversations, in these steps:
# `email`: whose each is. The customer may have been merged while it was transferred.
# `mark`: locks the conversations' marks. A deletion locks its mark, too: it erases the new row, or is seen here.
# `counted`, `judged`: more than twenty an hour of a conversation, or of a customer's new ones, are held.
# `bounded`: whether there is room for what is held; this is counted only for an email that would be.
# `taken`: the rows. An email that has arrived before conflicts, and is read by `_FIND`.
# `logged`, `noticed`: what is held changes the conversation's flag, and may get its sender a notice.
#
# Its plan: the conversation's index for each count. UUIDv7 ids are in the order of time, and a subquery makes the bound
# of an hour once. `is true` keeps the hour and the state from other indexes: PostgreSQL keeps the plan of an empty
# table until it has new statistics, and each email would read those of all conversations in the last hour.
TAKE_IN_SQL: Final = f"""
with email as (
    select each.*, coalesce((select merged_into from people where id = author_id), author_id) as user_id
    from unnest({_ARRAYS}) as each ({", ".join(_NewEmail._fields)})
), mark as (
    select conversation_id, deleted_at from marks where conversation_id in (select conversation_id from email)
    order by conversation_id for share
), counted as (
    select email.*, state = '{InboundState.RECEIVED}' and (
        (
            select count(*) from inbound_emails as earlier
            where conversation_id = email.conversation_id
                and (id > (select uuidv7(interval '-1 hour')) and {_WAITS_OR_POSTED}) is true
        ) >= $13::int
        or kind = '{InboundKind.CONVERSATION}' and (
            select count(*) from inbound_emails as earlier
            where user_id = email.user_id
                and (id > (select uuidv7(interval '-1 hour')) and kind = email.kind and {_WAITS_OR_POSTED}) is true
        ) >= $13
    ) as too_many
    from email
), judged as (
    select counted.*, state = '{InboundState.HELD}' or too_many as held from counted
), bounded as (
    select judged.*, held and (
        (
            select count(*) from inbound_emails as earlier
            where conversation_id = judged.conversation_id and state = '{InboundState.HELD}'
        ) >= $14::int
        or (
            select count(*) from inbound_emails as earlier
            where state = '{InboundState.HELD}' and from_address = judged.sender
                and id > (select uuidv7(interval '-1 day'))
        ) >= $15::int
        or sender is null and (
            select count(*) from inbound_emails as earlier
            where state = '{InboundState.HELD}' and from_address is null and id > (select uuidv7(interval '-1 day'))
        ) >= $15
        or kind = '{InboundKind.CONVERSATION}' and (
            select count(*) >= $16::int or coalesce(sum(earlier.size), 0) > $17::bigint from inbound_emails as earlier
            where state = '{InboundState.HELD}' and kind = '{InboundKind.CONVERSATION}'
        )
    ) as too_many_held, state = '{InboundState.IGNORED}' and (
        select count(*) from (
            select from inbound_emails as earlier
            where conversation_id = judged.conversation_id
                and (id > (select uuidv7(interval '-1 hour')) and state = '{InboundState.IGNORED}') is true
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
where not exists (select from mark where conversation_id = bounded.conversation_id and deleted_at is not null)
    and not exists (select from people where id = bounded.user_id and deleted)
on conflict (conversation_id, same_as) do nothing
returning id, conversation_id, state, reason
), logged as (
    {INBOUND_UPDATED_SQL} taken where state = '{InboundState.HELD}'
), noticed as (
    {TELL_SENDER_SQL}
    select distinct on (sender) sender, taken.id from taken join email using (conversation_id)
    where tells and taken.state = '{InboundState.HELD}' and sender is not null
    {ONCE_A_DAY_SQL}
)
select id, conversation_id, state, reason from taken
"""  # noqa: S608 - built from constants
_APPEND: Final = "update inbound_emails set original = original || $2::bytea where id = $1"
_FIND: Final = "select id, state, reason from inbound_emails where conversation_id = $1 and same_as = $2"
