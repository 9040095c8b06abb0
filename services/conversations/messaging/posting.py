"""Save messages, in one statement and one round trip; `opening` saves the first one of a new conversation.

There are two forms. `post_message` waits for row locks and raises the reason of a rejection. `post_messages` saves
several, does not wait for locks, and leaves out every post that needs the first form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused, NewerMessages, StatusChanged
from services.conversations.event_log.append import announce_at_commit
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting_sql import (
    POST,
    POST_BATCH,
    POST_SKIP_LOCKED,
    POST_WITH_FILES,
    REJECTION_REASON,
    REPLAYED,
    UNUSABLE_FILE,
)
from services.conversations.rules import ChosenStatus, Side, Status, Via
from shared.auth.principal import CallerMerged
from shared.database.engine import Driver
from shared.database.transactions import driver_connection
from shared.observability.logs import Origin
from shared.observability.tracing import note_message
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated
from shared.process.failpoints import failpoint
from shared.text import preview

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Post:
    """A message to post. With `scope`, the conversation must belong to that customer.

    It is rejected if the other side has sent messages after `seen_number`, or if the status is not `expected_status`.
    `assigns`: a conversation without an assignee gets the sender as its assignee.
    With an `origin`, the audit records the status that an admin sets.
    """

    conversation_id: UUID
    sender_id: str
    side: Side
    body: str
    scope: str | None = None
    seen_number: int | None = None
    chosen_status: Status | ChosenStatus | None = None
    expected_status: Status | None = None
    idempotency_key: IdempotencyKey | None = None
    assigns: bool = False
    attachments: tuple[UUID, ...] = ()
    via: Via = Via.WEB
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """A saved message; `replayed` means that an earlier request saved it."""

    id: UUID
    conversation_id: UUID
    number: int
    sender_id: str
    sender_role: str
    sender_name: str | None
    sender_deleted: bool
    body: str
    created_at: datetime
    via: str
    attachments: Sequence[Mapping[str, Any]] | None = None  # objects of `ATTACHMENT_JSON`
    removed_at: datetime | None = None
    replayed: bool = False


async def post_message(session: AsyncSession, post: Post) -> Posted:
    """Save a message, update its conversation's status, flags and counters, and append the event to the log.

    Raises `NotFound`, `NewerMessages`, `StatusChanged`, `IdempotencyKeyReused`, `Invalid` for a file that cannot be
    sent, `Unauthenticated` if the sender was deleted, `CallerMerged` if their id belongs to another person now, or
    `Forbidden` if the store has made a sending admin a customer.
    Rejected posts and replays write nothing.
    """
    connection = await driver_connection(session)
    failpoint("post-begun")
    audited, origin = post.origin is not None, _origin(post) if post.origin is not None else ()
    try:
        if post.attachments:
            row = await connection.fetchrow(POST_WITH_FILES[audited], *_values(post), post.attachments, *origin)
        else:
            row = await connection.fetchrow(POST[audited], *_values(post), *origin)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "messages_idempotency_key":
            raise
        return await _replay(connection, post)
    if row is None:
        return await _raise_rejection(connection, post)
    announce_at_commit(session)
    failpoint("post-saved")
    posted = Posted(**row)
    log_posted(posted.id, posted.conversation_id)
    return posted


async def post_messages(connection: Driver, posts: Sequence[Post]) -> dict[UUID, Posted]:
    """Save messages without files to different conversations in one statement; return the saved ones by conversation.

    Leaves out posts that would wait for a lock, be rejected, or replay an earlier post: these need `post_message`. If a
    post repeats a concurrent one, raises `asyncpg.IntegrityConstraintViolationError` and saves none.
    """
    failpoint("posts-begun")
    audited = any(post.origin is not None for post in posts)
    values = [(*_values(post), *_origin(post)) if audited else _values(post) for post in posts]
    if len(posts) == 1:  # at half the cost of the other form
        rows = await connection.fetch(POST_SKIP_LOCKED[audited], *values[0])
    else:
        rows = await connection.fetch(POST_BATCH[audited], *zip(*values, strict=True))
    failpoint("posts-saved")
    return {row["conversation_id"]: Posted(**row) for row in rows}


def log_posted(message_id: UUID, conversation_id: UUID) -> None:
    """Log the ids of a saved message, and begin its trace."""
    note_message(message_id)
    log.info("message posted", conversation_id=str(conversation_id), message_id=str(message_id))


async def check_files(connection: Driver, attachments: Sequence[UUID], sender_id: str, side: Side) -> None:
    """Raise `Invalid` for the first of these files that the sender cannot send."""
    position = await connection.fetchval(UNUSABLE_FILE, attachments, sender_id, side.value)
    if position is not None:
        msg = "There is no such file that you can send. Upload it again."
        raise Invalid(msg, ("body", "attachments", position - 1), "unknown_attachment")


def _values(post: Post) -> tuple[Any, ...]:
    key = post.idempotency_key
    message = (post.conversation_id, post.scope, post.sender_id, post.side.value, post.body, preview(post.body))
    conditions, once = (post.seen_number, post.expected_status), (key.key, key.request_hash) if key else (None, None)
    return (*message, post.chosen_status, *conditions, *once, post.assigns, post.via.value)


def _origin(post: Post) -> tuple[str | None, str | None]:
    origin = post.origin or Origin()
    return origin.address, origin.request_id


async def _replay(connection: Driver, post: Post) -> Posted:
    row = await _find_replayed(connection, post)
    if row is None:
        # The message existed a moment ago: its conversation has just been deleted.
        raise NotFound("There is no such conversation.")
    values = dict(row)
    if not values.pop("same_request"):
        raise IdempotencyKeyReused
    failpoint("post-replayed")
    return Posted(**values, replayed=True)


async def _find_replayed(connection: Driver, post: Post) -> Any:
    key = post.idempotency_key
    assert key is not None  # noqa: S101 - only posts with a key can be replays
    return await connection.fetchrow(REPLAYED, post.conversation_id, post.sender_id, key.key, key.request_hash)


async def _raise_rejection(connection: Driver, post: Post) -> Posted:
    """Raise the reason why the statement updated nothing, or return the message of a replay."""
    row = await connection.fetchrow(
        REJECTION_REASON, post.conversation_id, post.scope, post.sender_id, post.seen_number, post.side
    )
    assert row is not None  # noqa: S101 - a select without `from` always returns a row
    if row["merged_into"] is not None:
        raise CallerMerged(post.sender_id, row["merged_into"])
    if not row["sender_known"]:
        raise Unauthenticated("This user was deleted.")
    if post.side is Side.ADMIN and row["synced_role"] == Side.CUSTOMER:
        raise Forbidden("This user is no longer an admin: the store has made them a customer.")
    if not row["found"]:
        raise NotFound("There is no such conversation.")
    # A retry returns its own earlier success, even if the other side has replied since.
    if post.idempotency_key is not None and await _find_replayed(connection, post) is not None:
        return await _replay(connection, post)
    if row["has_newer"]:
        raise NewerMessages("The other side has sent newer messages. Read them, then send again.")
    if post.attachments:
        await check_files(connection, post.attachments, post.sender_id, post.side)
    if post.expected_status is not None:
        raise StatusChanged(f"The status is no longer {post.expected_status}. Nothing was sent or changed.")
    raise Unauthenticated("This user was deleted and has just been restored. Try again.")
