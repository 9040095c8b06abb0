"""Saving messages: one statement, one round trip, and the only way that a message comes to be.

The statement locks the conversation's row, which orders its posts and so numbers them 1, 2, 3 … without gap.
Standing alone it is a transaction of its own, straight on the driver; inside a transaction it is a part of it, and
then takes no idempotency key: a repeated one would break the whole.

It comes in two forms: of one message, which waits for whoever holds a row, and says why it was refused; and of many,
which waits for nobody, and leaves out whatever the first has to look at.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused, NewerMessages
from services.conversations.rules import EFFECTS, Side, Status
from shared.database import Driver, driver_connection
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
    connection = await driver_connection(session)
    failpoint("post-begun")
    try:
        row = await connection.fetchrow(POST, *_values(post))
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "messages_idempotency_key":
            raise
        return await _replay(connection, post)
    if row is None:
        return await _refuse(connection, post)
    failpoint("post-saved")
    posted = Posted(**row)
    log_posted(posted)
    return posted


async def post_messages(connection: Driver, posts: Sequence[Post]) -> dict[UUID, Posted]:
    """Save messages of different conversations, in one statement, and return what was saved by conversation.

    Left out is what would have to wait for somebody, be refused, or repeat an earlier post: that is for `post_message`.
    Raises `asyncpg.IntegrityConstraintViolationError` when an earlier post of the same moment is repeated, and then
    none is saved.
    """
    failpoint("posts-begun")
    if len(posts) == 1:  # at half of the cost of the other form
        rows = await connection.fetch(POST_FREE, *_values(posts[0]))
    else:
        rows = await connection.fetch(POST_MANY, *zip(*map(_values, posts), strict=True))
    failpoint("posts-saved")
    return {row["conversation_id"]: Posted(**row) for row in rows}


def log_posted(posted: Posted) -> None:
    """Tell the log of a saved message, by its ids."""
    log.info("message posted", conversation_id=str(posted.conversation_id), message_id=str(posted.id))


def _values(post: Post) -> tuple[Any, ...]:
    once = (post.once.key, post.once.request_hash) if post.once else (None, None)
    sent = (post.conversation_id, post.scope, post.sender_id, post.side.value, post.body, preview(post.body))
    return (*sent, post.chosen_status, post.seen_number, *once)


async def _replay(connection: Driver, post: Post) -> Posted:
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


async def _refuse(connection: Driver, post: Post) -> Posted:
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
    if post.seen_number is None:
        raise Unauthenticated("This user was deleted, and is back only now.")
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

_COLUMNS = {
    "conversation_id": "uuid",
    "scope": "text",
    "sender_id": "text",
    "side": "text",
    "body": "text",
    "preview": "text",
    "chosen_status": "text",
    "seen_number": "int",
    "idempotency_key": "text",
    "request_hash": "text",
}
_ONE = "select " + ", ".join(f"${n}::{kind} as {name}" for n, (name, kind) in enumerate(_COLUMNS.items(), 1))
_ARRAYS = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_COLUMNS.values(), 1))
_MANY = f"select * from unnest({_ARRAYS}) as post ({', '.join(_COLUMNS)})"  # noqa: S608 - built from constants
_EFFECTS = ", ".join(
    f"('{side}', {effect.is_read_by_admin}, {effect.is_read_by_user}, {effect.answers},"
    f" '{json.dumps(effect.after_first)}'::jsonb, '{json.dumps(effect.after_later)}'::jsonb)"
    for side, effect in EFFECTS.items()
)


# Whoever holds one of the rows makes nobody else wait, and a retry does not break what others post.
_FREE = """
free as materialized (
    select c.id
    from post
        join conversations as c on c.id = post.conversation_id
        join users as customer on customer.id = c.user_id
    where (post.scope is null or c.user_id = post.scope) and not exists (
        select from messages as earlier
        where earlier.conversation_id = c.id and earlier.sender_id = post.sender_id
            and earlier.idempotency_key = post.idempotency_key
    )
    for no key update of c skip locked for key share of customer skip locked
),"""


def _statement(posts: str, *, waits: bool) -> str:
    waiting, free, only = ("", "", "") if waits else ("skip locked", _FREE, "and c.id in (select id from free)")
    return f"""
with
post as ({posts}),
effect (side, is_read_by_admin, is_read_by_user, answers, after_first, after_later) as (values {_EFFECTS}),
-- 1. Who sends. A deleted user finds nobody here, and so updates nothing. The lock (here and on the customer) waits
--    for a deletion under way: what it erases must not get into the log behind it.
sender as (
    select * from users where id in (select sender_id from post) and deleted_at is null for key share {waiting}
),
{free}
-- 2. The conversation: lock it, number the message, move status, flags and counters. One clock reading, taken under
--    the lock, so that times never run against the numbers.
conversation as (
    update conversations as c set
        status = coalesce(
            post.chosen_status, (case when c.message_count = 0 then after_first else after_later end) ->> c.status
        ),
        is_read_by_admin = effect.is_read_by_admin,
        is_read_by_user = effect.is_read_by_user,
        message_count = c.message_count + 1,
        last_admin_number = case side when 'admin' then c.message_count + 1 else c.last_admin_number end,
        last_customer_number = case side when 'customer' then c.message_count + 1 else c.last_customer_number end,
        last_message_id = uuidv7(),
        last_message_role = side,
        last_message_preview = post.preview,
        (last_activity_at, changed_at, unanswered_since) = (
            select moment, moment, case when answers then null else coalesce(c.unanswered_since, moment) end
            from (select greatest(clock_timestamp(), c.last_activity_at) as moment) as reading
        )
    from post join effect using (side)
    where c.id = post.conversation_id
        and (post.scope is null or c.user_id = post.scope)
        and exists (select from sender where sender.id = post.sender_id)
        and (post.seen_number is null
            or post.seen_number >= case side when 'admin' then c.last_customer_number else c.last_admin_number end)
        {only}
    returning c.*, sender_id, side, body, idempotency_key, request_hash
),
-- 3. The message. A repeated idempotency key breaks the whole statement here.
message as (
    insert into messages
        (id, conversation_id, number, sender_id, sender_role, body, created_at, idempotency_key, request_hash)
    select
        last_message_id, id, message_count, sender_id, side, body, last_activity_at, idempotency_key, request_hash
    from conversation
    returning *
),
-- 4. The event, with all that its consumers need.
customer as (
    select * from users where id in (select user_id from conversation) for key share
),
logged as (
    insert into events (type, user_id, conversation_id, payload)
    select '{EventType.MESSAGE_POSTED}', conversation.user_id, conversation.id, {MESSAGE_PAYLOAD}
    from conversation
        join message on message.conversation_id = conversation.id
        join sender on sender.id = message.sender_id
        join customer on customer.id = conversation.user_id
)
select {_MESSAGE_COLUMNS} from message join sender on sender.id = message.sender_id
"""  # noqa: S608 - built from constants


POST = _statement(_ONE, waits=True)
POST_FREE = _statement(_ONE, waits=False)
POST_MANY = _statement(_MANY, waits=False)

_REPLAYED = f"""
select {_MESSAGE_COLUMNS}, message.request_hash = $4 as same_request
from messages as message join users as sender on sender.id = message.sender_id
where message.conversation_id = $1 and message.sender_id = $2 and message.idempotency_key = $3
"""  # noqa: S608 - built from constants

_WHY = """
select exists (select from users where id = $3 and deleted_at is null) as sender_known,
    exists (select from conversations where id = $1 and ($2::text is null or user_id = $2)) as found
"""
