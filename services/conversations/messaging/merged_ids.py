"""Ids that the store has merged into others: whose they are, and the move of their conversations.

They move in batches, each a transaction that locks them without the users, as posts do. If the process of the merger
dies, the jobs move the rest.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import append_event
from services.conversations.models import User
from services.conversations.rules import Side
from shared.auth.principal import CallerMerged
from shared.database.errors import is_outage
from shared.database.transactions import SessionFactory, fetch_alone, request_transaction, run_transaction
from shared.events import EventType, UserChanged
from shared.people import Person
from shared.problems import Unauthenticated

BATCH: Final = 500  # conversations moved in one transaction

log = structlog.get_logger()


async def person_of(session: AsyncSession, user_id: str) -> str:
    """Return whose id this is: the id of the person, which is this one unless it was merged."""
    return await session.scalar(select(User.merged_into).where(User.id == user_id)) or user_id


async def refused_caller(session: AsyncSession, user_id: str) -> Exception:
    """Return why a caller who was there a moment ago is refused: they were deleted, or merged into another one."""
    person_id = await person_of(session, user_id)
    return Unauthenticated("This user was deleted.") if person_id == user_id else CallerMerged(user_id, person_id)


async def ids_of(session: AsyncSession, user_id: str) -> list[str]:
    """Return all ids of the person to whom this id belongs, their own one first."""
    person_id = await person_of(session, user_id)
    return [person_id, *await session.scalars(select(User.id).where(User.merged_into == person_id).order_by(User.id))]


async def move_batch(session: AsyncSession, old_id: str, *, size: int = BATCH) -> bool:
    """Move the next conversations of a merged id to the person; return whether there may be more.

    The last batch sets `merged_at`, and logs that the person's clients have to reload.
    """
    person_id = await person_of(session, old_id)
    # In this order, because a merger of the person locks the same rows.
    both = select(User).where(User.id.in_([old_id, person_id])).order_by(User.id)
    rows = await session.scalars(both.with_for_update(key_share=True).execution_options(populate_existing=True))
    old = next(user for user in rows if user.id == old_id)
    if old.merged_into is None or old.merged_at is not None:
        return False
    if old.merged_into != person_id:
        return True
    moved = (await session.scalars(_MOVE_CONVERSATIONS, {"old": old_id, "new": person_id, "size": size})).all()
    if len(moved) == size:
        return True
    old.merged_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    await session.flush()
    await log_merge(session, old, person_id)
    return False


async def find_unfinished(session: AsyncSession, user_id: str) -> Sequence[str]:
    """Return merged ids of a person whose conversations have not all moved: 100 at most."""
    return (await session.scalars(_UNFINISHED_OF, {"user_id": user_id})).all()


async def finish_merges(sessions: SessionFactory, user_id: str) -> int:
    """Move all that is left of a person's merged ids; return the number of batches, each a transaction."""
    async with request_transaction(sessions) as session:
        unfinished = await find_unfinished(session, user_id)
    return sum([await _move_all(sessions, old_id) for old_id in unfinished])


async def merge_round(sessions: SessionFactory) -> int:
    """Move all that is left of all merged ids; return how many failed.

    A failed one does not hold up the others, and is retried in the next round. Raises the error of an outage.
    """
    failed, last = 0, ""
    while rows := await fetch_alone(sessions, _UNFINISHED, last):
        for [old_id] in rows:
            try:
                await _move_all(sessions, old_id)
            except Exception as error:
                if is_outage(error) or is_outage(error.__cause__):
                    raise
                failed += 1
                log.warning("merged user not moved, retrying", user_id=old_id, error=type(error).__name__)
                log.debug("merged user not moved", exc_info=True)
            last = old_id
    return failed


async def _move_all(sessions: SessionFactory, old_id: str) -> int:
    """Move all that is left of a merged id; return the number of batches."""
    batches, more = 0, True
    while more:
        more = await run_transaction(sessions, partial(move_batch, old_id=old_id))
        batches += 1
    return batches


async def log_merge(session: AsyncSession, old: User, user_id: str) -> None:
    """Log a merger, for the clients of one of the two ids. Without the person's data: it may be handled late."""
    assert old.merged_into is not None  # noqa: S101 - for types
    alias = Person(id=old.id, version=old.version, deleted=True, role=old.synced_role, merged_into=old.merged_into)
    await append_event(session, EventType.USER_MERGED, UserChanged(person=alias), user_id=user_id)


# No message under the old id can come any more: the first transaction waited for those who wrote.
_MOVE_CONVERSATIONS = text(f"""
    with theirs as materialized (
        select id from conversations where user_id = :old order by id limit :size for no key update
    ),
    said as (
        update messages set sender_id = :new
        where conversation_id = any(array(select id from theirs)) and sender_id = :old
            and sender_role = '{Side.CUSTOMER}'
    )
    update conversations set user_id = :new where id = any(array(select id from theirs)) returning id
""")  # noqa: S608 - built from constants

_UNFINISHED_OF = text("""
    select id from users
    where merged_into is not null and merged_at is null
        and merged_into = coalesce((select merged_into from users where id = :user_id), :user_id)
    order by id limit 100
""")
_UNFINISHED = """
    select id from users where merged_into is not null and merged_at is null and id > $1 order by id limit 100
"""
