"""The erasure of a person on request: what it would erase, its steps, and its receipt."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.identity.erasure import delete_user
from services.conversations.messaging.erasure_batches import Progress, erase_batch, hide_conversations, read_progress
from services.conversations.messaging.merged_ids import find_unfinished, finish_merges, person_of
from services.conversations.models import Erasure, User
from services.conversations.rules import ActorRole, AuditAction
from shared.database import SessionFactory, request_transaction
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
            async with request_transaction(sessions) as session:
                erasure_id = await _begin(session, user_id, content=content, asked_by=asked_by)
                data = {"content": content}
                act = Act(AuditAction.USER_DELETED, asked_by, target_id=user_id, data=data, role=ActorRole.STORE)
                await record(session, act)
            has_begun = True
    if erasure_id is None:
        return None
    more = True
    while more:
        async with request_transaction(sessions) as session:
            more = await hide_conversations(session, erasure_id)
    async with request_transaction(sessions) as session:
        await erase_batch(session, erasure_id)
        return await read_progress(session, erasure_id)


class _HasJustMerged(Exception):  # noqa: N818 - no error: it is done again
    """A merger of the person has begun since those before were completed."""


async def _begin(session: AsyncSession, user_id: str, *, content: bool, asked_by: str) -> UUID | None:
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
