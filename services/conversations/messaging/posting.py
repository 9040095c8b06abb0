"""Saving messages: one statement, one round trip, and the only way that a message comes to be.

It comes in two forms: of one message, which waits for whoever holds a row, and says why it was refused; and of several,
which waits for nobody, and leaves out whatever the first has to look at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused, NewerMessages
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting_sql import POST, POST_BATCH, POST_SKIP_LOCKED, REJECTION_REASON, REPLAYED
from services.conversations.rules import Side, Status
from shared.database import Driver, driver_connection
from shared.failpoints import failpoint
from shared.problems import Forbidden, NotFound, Unauthenticated
from shared.text import preview

log = structlog.get_logger()


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
    once: IdempotencyKey | None = None


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

    Raises `NotFound`, `NewerMessages`, `IdempotencyKeyReused`, `Unauthenticated` when the sender was deleted, or
    `Forbidden` when the store has made a sending admin a customer. Nothing is left behind by a post that is refused
    or that repeats an earlier one.
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
        rows = await connection.fetch(POST_SKIP_LOCKED, *_values(posts[0]))
    else:
        rows = await connection.fetch(POST_BATCH, *zip(*map(_values, posts), strict=True))
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
        REPLAYED, post.conversation_id, post.sender_id, post.once.key, post.once.request_hash
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
    row = await connection.fetchrow(REJECTION_REASON, post.conversation_id, post.scope, post.sender_id)
    assert row is not None  # noqa: S101 - a select without from always has a row
    if not row["sender_known"]:
        raise Unauthenticated("This user was deleted.")
    if post.side is Side.ADMIN and row["synced_role"] == Side.CUSTOMER:
        raise Forbidden("The store has made this user a customer.")
    if not row["found"]:
        raise NotFound("There is no such conversation.")
    if post.once is not None:
        # A retry sees its own earlier success, not the answers that came in since.
        replayed = await connection.fetchrow(
            REPLAYED, post.conversation_id, post.sender_id, post.once.key, post.once.request_hash
        )
        if replayed is not None:
            return await _replay(connection, post)
    if post.seen_number is None:
        raise Unauthenticated("This user was deleted, and is back only now.")
    raise NewerMessages("The other side has written since you last looked. Read it, then send again.")
