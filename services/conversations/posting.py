"""Saving a message: one statement, one round trip, and the only way that a message comes to be.

The statement locks the conversation's row, which orders its posts and so numbers them 1, 2, 3 … without gap.
Standing alone it is a transaction of its own, straight on the driver; inside a transaction it is a part of it, and
then takes no idempotency key: a repeated one would break the whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused, NewerMessages
from services.conversations.rules import EFFECTS, Side, Status
from shared.database import driver_connection
from shared.events import EventType
from shared.failpoints import failpoint
from shared.problems import NotFound, Unauthenticated
from shared.text import preview

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key together with the fingerprint of the request that it stands for."""

    key: str
    request_hash: str

    @classmethod
    def of(cls, key: str | None, operation: str, fields: Mapping[str, Any]) -> "Once | None":
        """Bind a caller's key to the operation and to its fields after trimming; no key gives None."""
        if key is None:
            return None
        canonical = json.dumps([operation, fields], sort_keys=True, default=str)
        return cls(f"{operation}:{key}", hashlib.sha256(canonical.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Post:
    """A message that somebody wants to send. `scope` is the customer whose conversation it must be."""

    conversation_id: UUID
    sender_id: str
    side: Side
    body: str
    scope: str | None = None
    seen_number: int | None = None
    chosen_status: Status | None = None
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """A saved message; `replayed` says that an earlier request had saved it."""

    id: UUID
    conversation_id: UUID
    number: int
    sender_id: str
    sender_role: str
    sender_name: str | None
    sender_deleted: bool
    body: str
    created_at: datetime
    replayed: bool = False


async def post_message(session: AsyncSession, post: Post) -> Posted:
    """Save a message with all that follows from it: status, flags, counters, and the event in the log.

    Raises `NotFound`, `NewerMessages`, `IdempotencyKeyReused`, or `Unauthenticated` when the sender was deleted.
    Nothing is left behind by a post that is refused or that repeats an earlier one.
    """
    connection: asyncpg.Connection[Any] = await driver_connection(session)
    effect = EFFECTS[post.side]
    failpoint("post-begun")
    try:
        row = await connection.fetchrow(
            _POST,
            post.conversation_id,
            post.scope,
            post.sender_id,
            post.side.value,
            post.body,
            preview(post.body),
            json.dumps(effect.after_first),
            json.dumps(effect.after_later),
            post.chosen_status,
            effect.is_read_by_admin,
            effect.is_read_by_user,
            effect.answers,
            post.seen_number,
            post.once.key if post.once else None,
            post.once.request_hash if post.once else None,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "messages_idempotency_key":
            raise
        return await _replay(connection, post)
    if row is None:
        return await _refuse(connection, post)
    failpoint("post-saved")
    posted = Posted(**row)
    log.info("message posted", conversation_id=str(posted.conversation_id), message_id=str(posted.id))
    return posted


async def _replay(connection: "asyncpg.Connection[Any]", post: Post) -> Posted:
    assert post.once is not None  # noqa: S101 - the constraint covers rows with a key only
    row = await connection.fetchrow(
        _REPLAYED, post.conversation_id, post.sender_id, post.once.key, post.once.request_hash
    )
    if row is None:
        # The message was there a moment ago: its conversation has just been deleted.
        raise NotFound("There is no such conversation.")
    found = dict(row)
    if not found.pop("same_request"):
        raise IdempotencyKeyReused
    failpoint("post-replayed")
    return Posted(**found, replayed=True)


async def _refuse(connection: "asyncpg.Connection[Any]", post: Post) -> Posted:
    """Say why the statement found nothing to update."""
    row = await connection.fetchrow(_WHY, post.conversation_id, post.scope, post.sender_id)
    assert row is not None  # noqa: S101 - a select without from always has a row
    if not row["sender_known"]:
        raise Unauthenticated("This user was deleted.")
    if not row["found"]:
        raise NotFound("There is no such conversation.")
    if post.once is not None:
        # A retry sees its own earlier success, not the answers that came in since.
        replayed = await connection.fetchrow(
            _REPLAYED, post.conversation_id, post.sender_id, post.once.key, post.once.request_hash
        )
        if replayed is not None:
            return await _replay(connection, post)
    raise NewerMessages("The other side has written since you last looked. Read it, then send again.")


def person_payload(alias: str) -> str:
    """Return the SQL of a user as events tell of them."""
    return (
        f"jsonb_build_object('id', {alias}.id, 'version', {alias}.version, 'name', {alias}.name,"
        f" 'email', {alias}.email, 'locale', {alias}.locale, 'zoneinfo', {alias}.zoneinfo,"
        f" 'deleted', {alias}.deleted_at is not null)"
    )


MESSAGE_PAYLOAD = f"""jsonb_build_object(
        'conversation_id', conversation.id,
        'subject', conversation.subject,
        'message', jsonb_build_object(
            'id', message.id, 'number', message.number, 'sender_role', message.sender_role,
            'body', message.body, 'created_at', message.created_at
        ),
        'sender', {person_payload("sender")},
        'customer', {person_payload("customer")}
    )"""

_MESSAGE_COLUMNS = """
    message.id, message.conversation_id, message.number, message.sender_id, message.sender_role,
    sender.name as sender_name, sender.deleted_at is not null as sender_deleted, message.body, message.created_at
"""

_POST = f"""
with
-- 1. Who sends. A deleted user finds nobody here, and so updates nothing. The lock (here and on the customer) waits
--    for a deletion under way: what it erases must not get into the log behind it.
sender as (
    select * from users where id = $3 and deleted_at is null for key share
),
-- 2. The conversation: lock it, number the message, move status, flags and counters. One clock reading, taken under
--    the lock, so that times never run against the numbers.
conversation as (
    update conversations as c set
        status = coalesce($9, (case when c.message_count = 0 then $7::jsonb else $8::jsonb end) ->> c.status),
        is_read_by_admin = $10,
        is_read_by_user = $11,
        message_count = c.message_count + 1,
        last_admin_number = case $4 when 'admin' then c.message_count + 1 else c.last_admin_number end,
        last_customer_number = case $4 when 'customer' then c.message_count + 1 else c.last_customer_number end,
        last_message_id = uuidv7(),
        last_message_role = $4,
        last_message_preview = $6,
        (last_activity_at, changed_at, unanswered_since) = (
            select moment, moment, case when $12 then null else coalesce(c.unanswered_since, moment) end
            from (select greatest(clock_timestamp(), c.last_activity_at) as moment) as reading
        )
    where c.id = $1
        and ($2::text is null or c.user_id = $2)
        and exists (select from sender)
        and ($13::int is null
            or $13 >= case $4 when 'admin' then c.last_customer_number else c.last_admin_number end)
    returning c.*
),
-- 3. The message. A repeated idempotency key breaks the whole statement here.
message as (
    insert into messages
        (id, conversation_id, number, sender_id, sender_role, body, created_at, idempotency_key, request_hash)
    select last_message_id, id, message_count, $3, $4, $5, last_activity_at, $14, $15 from conversation
    returning *
),
-- 4. The event, with all that its consumers need.
customer as (
    select u.* from users as u, conversation as c where u.id = c.user_id for key share of u
),
logged as (
    insert into events (type, user_id, conversation_id, payload)
    select '{EventType.MESSAGE_POSTED}', conversation.user_id, conversation.id, {MESSAGE_PAYLOAD}
    from conversation, message, sender, customer
)
select {_MESSAGE_COLUMNS} from message, sender
"""  # noqa: S608 - built from constants

_REPLAYED = f"""
select {_MESSAGE_COLUMNS}, message.request_hash = $4 as same_request
from messages as message join users as sender on sender.id = message.sender_id
where message.conversation_id = $1 and message.sender_id = $2 and message.idempotency_key = $3
"""  # noqa: S608 - built from constants

_WHY = """
select exists (select from users where id = $3 and deleted_at is null) as sender_known,
    exists (select from conversations where id = $1 and ($2::text is null or user_id = $2)) as found
"""
