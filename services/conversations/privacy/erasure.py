"""The erasure of a person on request: what it would erase, its steps, and its receipt.

`erase_user` takes the steps, `delete_user` is the first one. What is too much for it is erased in batches, by
`messaging/erasure_batches.py`, which does the same for deleted conversations; `chats jobs` completes it. The
notifications service erases its part when it handles the events (`delivery/erasure.py` there).
"""

from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.identity.provisioning import PROFILE, change_user, ensure_user
from services.conversations.identity.sessions import end_all_sessions
from services.conversations.messaging.erasure_batches import (
    Progress,
    begin_erasure,
    erase_batch,
    erase_user_in_log,
    find_erasure,
    hide_conversations,
    read_progress,
)
from services.conversations.messaging.merged_ids import find_unfinished, finish_merges, ids_of, person_of
from services.conversations.models import Attachment, Conversation, Erasure, User
from services.conversations.rules import ACTIVE, ActorRole, AuditAction, EntryKind, Side
from shared.database.transactions import SessionFactory, run_transaction
from shared.events import EventType
from shared.problems import NotFound


@dataclass(frozen=True, slots=True)
class HeldCounts:
    """How much there is of each kind. `entries` are notes, and changes of status, assignment and labels."""

    profile_fields: int = 0
    sessions: int = 0
    unsent_files: int = 0
    conversations: int = 0
    messages: int = 0
    files: int = 0
    entries: int = 0
    orders: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """What a deletion would erase of a person, and what it would keep."""

    erased: HeldCounts
    kept: HeldCounts


async def preview_erasure(session: AsyncSession, user_id: str, *, content: bool) -> Preview:
    """Return what deleting a user would erase and keep. Raises `NotFound`."""
    row = (await session.execute(_COUNT, {"user_id": await person_of(session, user_id)})).one_or_none()
    if row is None:
        raise NotFound("There is no user with this id.")
    own = {"profile_fields": row.profile_fields, "sessions": row.sessions, "unsent_files": row.unsent_files}
    content_counts = {
        "conversations": row.conversations,
        "messages": row.messages,
        "files": row.files,
        "entries": row.entries,
    }
    if content:
        return Preview(HeldCounts(**own, **content_counts), HeldCounts(orders=row.orders))
    return Preview(HeldCounts(**own), HeldCounts(**content_counts, orders=row.orders))


async def erase_user(sessions: SessionFactory, user_id: str, *, content: bool, asked_by: str) -> Progress | None:
    """Delete a user; return the receipt, or None if there was nothing to erase and never had been.

    Each step commits: the user is rejected before their conversations are locked. If this process dies in between, the
    jobs complete the erasure.
    """
    erasure_id = None
    has_begun = False
    while not has_begun:
        await finish_merges(sessions, user_id)  # else what has not moved yet would be kept
        with suppress(_HasJustMerged):
            erasure_id = await run_transaction(
                sessions, partial(_begin, user_id=user_id, content=content, asked_by=asked_by)
            )
            has_begun = True
    if erasure_id is None:
        return None
    more = True
    while more:
        more = await run_transaction(sessions, partial(hide_conversations, erasure_id=erasure_id))
    return await run_transaction(sessions, partial(_erase_first, erasure_id=erasure_id))


async def _erase_first(session: AsyncSession, erasure_id: UUID) -> Progress:
    await erase_batch(session, erasure_id)
    return await read_progress(session, erasure_id)


class _HasJustMerged(Exception):  # noqa: N818 - no error: it is done again
    """A merger of the person has begun since those before were completed."""


async def _begin(session: AsyncSession, user_id: str, *, content: bool, asked_by: str) -> UUID | None:
    """Delete a user and record it; return the id of the erasure. Raises `_HasJustMerged`."""
    erasure_id = await _delete(session, user_id, content=content, asked_by=asked_by)
    act = Act(AuditAction.USER_DELETED, asked_by, target_id=user_id, data={"content": content}, role=ActorRole.STORE)
    await record(session, act)
    return erasure_id


async def _delete(session: AsyncSession, user_id: str, *, content: bool, asked_by: str) -> UUID | None:
    """Delete a user; return the id of the erasure, whose receipt says what there was. Raises `_HasJustMerged`."""
    user_id = await person_of(session, user_id)
    # With this lock nobody posts for the user between the count and the deletion, and no merger of them begins.
    user = await session.scalar(select(User).where(User.id == user_id).with_for_update())
    if user is None:
        return await delete_user(session, user_id, content=content)
    if user.merged_into is not None or await find_unfinished(session, user_id):
        raise _HasJustMerged
    was_deleted = user.deleted_at is not None
    counts = asdict((await preview_erasure(session, user_id, content=content)).erased)
    erasure_id = await delete_user(session, user_id, content=content)
    if erasure_id is not None:
        erasure = await session.get_one(Erasure, erasure_id)
        before = erasure.counts or {}  # of a deletion that is being repeated: there is less now
        erasure.counts = {kind: max(count, before.get(kind, 0)) for kind, count in counts.items()}
        erasure.asked_by = erasure.asked_by or asked_by
        await session.flush()
        return erasure_id
    if was_deleted:
        return await session.scalar(
            select(Erasure.id)
            .where(Erasure.user_id == user_id, Erasure.conversation_id.is_(None))
            .order_by(Erasure.id.desc())
            .limit(1)
        )
    done = Erasure(
        user_id=user_id, content=content, counts=counts, asked_by=asked_by, finished_at=func.clock_timestamp()
    )
    session.add(done)
    await session.flush()
    return done.id


async def delete_user(session: AsyncSession, user_id: str, *, content: bool = False) -> UUID | None:
    """Erase a user's profile, sessions and unsent files, and reject their tokens from now on, with any of their ids.

    Keeps their conversations unless `content` is true. Returns the id of the erasure that remains to be done after this
    transaction, or None if all is done. A user who was never known is recorded as deleted. Deleting a
    user again returns the unfinished erasure, or starts one of the content that was kept.
    """
    user_id = await person_of(session, user_id)
    await ensure_user(session, user_id, Side.CUSTOMER)
    # The lock excludes concurrent posts.
    user = await session.get_one(User, user_id, with_for_update=True, populate_existing=True)
    if user.merged_into is not None:  # just now
        return await delete_user(session, user_id, content=content)
    content = content and await session.scalar(select(exists().where(Conversation.user_id == user_id))) is True
    if user.deleted_at is not None:
        erasure = await find_erasure(session, user_id)
        if erasure is None:
            return await begin_erasure(session, user_id, content=True, event_id=None) if content else None
        if content:
            erasure.content, erasure.asked_at = True, func.clock_timestamp()
        return erasure.id
    await end_all_sessions(session, user_id)
    # What is done keeps its assignee, who shows as deleted.
    open_ones = Conversation.status.in_(sorted(ACTIVE))
    await session.execute(
        update(Conversation).where(Conversation.assignee_id == user_id, open_ones).values(assignee_id=None)
    )
    await session.execute(delete(Attachment).where(Attachment.uploader_id == user_id, Attachment.message_id.is_(None)))
    ids = await ids_of(session, user_id)
    await session.execute(_ERASE_SENDERS, {"ids": ids, "address": user.email})
    in_log = [each for each in ids if not await erase_user_in_log(session, each)]
    deleted_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    changes: dict[str, Any] = dict.fromkeys((*PROFILE, "custom")) | {"deleted_at": deleted_at}
    event_id = await change_user(session, user, changes, EventType.USER_DELETED)
    if not (content or in_log):
        return None
    # The person's own comes first, and is done when those of their other ids are.
    own, *_ = [
        await begin_erasure(
            session, each, content=content and each == user_id, event_id=event_id if each in in_log else None
        )
        for each in ids
        if each == user_id or each in in_log
    ]
    return own


_COUNT: Final = text("""
    select
        case when deleted_at is null then num_nonnulls(name, email, locale, zoneinfo, custom) else 0 end
            as profile_fields,
        (select count(*) from sessions where user_id = u.id) as sessions,
        (select count(*) from attachments where uploader_id = u.id and message_id is null) as unsent_files,
        theirs.conversations, theirs.messages,
        (select count(*) from attachments where conversation_id = any(theirs.ids)) as files,
        (select count(*) from conversation_entries where conversation_id = any(theirs.ids)) as entries,
        (select count(*) from orders where user_id = u.id) as orders
    from users as u cross join lateral (
        select count(*) as conversations, coalesce(sum(message_count), 0)::bigint as messages, array_agg(id) as ids
        from conversations where user_id = u.id
    ) as theirs
    where u.id = :user_id
""")

# The addresses from which emails came that were posted by hand: in the person's conversations, or as the person's own.
_ERASE_SENDERS = text(f"""
    update conversation_entries set data = data - 'from'
    where kind = '{EntryKind.POSTED_EMAIL}'
        and (data ->> 'user_id' = any(cast(:ids as text[])) or data ->> 'from' = lower(cast(:address as text)))
""")  # noqa: S608 - built from constants
