"""Erasure of deleted conversations and users: at once for a few rows, in batches otherwise.

Handling a deletion's event cancels the emails and hides the notifications, however many there are. The sweepers erase
the rest, one batch per transaction. Erased rows are gone, so any sweeper can continue.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.transitions import move_emails
from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.models import DeliveryAttempt, Email, Erasure
from services.notifications.rules import Audience, EmailState, InboundReason, InboundState
from shared.database.errors import is_outage
from shared.database.orm import any_of, bulk_insert
from shared.database.transactions import SessionFactory, fetch_alone, transaction

BATCH = 1000  # rows of one table that a transaction erases

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class State:
    """Pending erasures: their number, the rows erased so far, and the seconds since the last progress."""

    under_way: int
    erased: int
    stalled_seconds: float


async def choose_small(session: AsyncSession, conversation_ids: Collection[UUID], *, size: int = BATCH) -> set[UUID]:
    """Return the deleted conversations that are small enough to be erased at once; schedule erasures of the others."""
    if not conversation_ids:
        return set()
    values = {"ids": sorted(conversation_ids), "most": size + 1}
    small, rows_left = set(), size
    for row in await session.execute(_COUNT, values):
        if row.rows <= rows_left:
            small.add(row.id)
            rows_left -= row.rows
    if large := [{"conversation_id": key} for key in sorted(set(conversation_ids) - small)]:
        await session.execute(bulk_insert(Erasure, large).on_conflict_do_nothing())
    return small


async def erase_recipient(session: AsyncSession, user_id: str, before: datetime) -> None:
    """Erase a deleted user's address from emails up to a time and replies; schedule the rest beyond `BATCH` rows."""
    erasure = Erasure(user_id=user_id, until=before)
    session.add(erasure)
    await session.flush()
    await erase_batch(session, erasure.id)


async def erase_batch(session: AsyncSession, erasure_id: UUID, *, size: int = BATCH) -> int:
    """Erase the next rows of an erasure, unless another process is doing it; return how many. Delete a finished one."""
    query = select(Erasure).where(Erasure.id == erasure_id).with_for_update(skip_locked=True)
    erasure = await session.scalar(query.execution_options(populate_existing=True))
    if erasure is None:
        return 0
    if erasure.conversation_id is not None:
        rows, done = await _erase_conversation(session, erasure.conversation_id, size)
    else:
        rows, done = await _erase_addresses(session, erasure, size)
    erasure.erased += rows
    erasure.advanced_at = func.clock_timestamp()
    await session.flush()
    if done:
        await session.delete(erasure)
        await session.flush()
    return rows


async def erase_round(sessions: SessionFactory, *, size: int = BATCH) -> int:
    """Erase a batch of each pending erasure, each in its own transaction; return the number of rows.

    A failing erasure does not block the others, and is retried in the next round.
    """
    rows = 0
    for [erasure_id] in await fetch_alone(sessions, "select id from erasures order by id limit 100"):
        try:
            async with transaction(sessions) as session:
                rows += await erase_batch(session, erasure_id, size=size)
        except Exception as error:
            if is_outage(error):
                raise
            log.warning("erasure batch failed, retrying", erasure_id=str(erasure_id), error=type(error).__name__)
    return rows


async def erase_inbound(session: AsyncSession, conversation_ids: Collection[UUID]) -> None:
    """Erase the emails that came in for small conversations, and the fingerprints of those that went out."""
    if conversation_ids:
        values = {"ids": sorted(conversation_ids)}
        await session.execute(_ERASE_INBOUND, values)
        await session.execute(_ERASE_FINGERPRINTS, values)


async def erase_from_digests(session: AsyncSession, conversation_ids: Collection[UUID]) -> None:
    """Erase what digests contain of deleted conversations. One that is not yet sent is rendered again."""
    erased = (await session.scalars(_ERASE_FROM_DIGESTS, {"ids": sorted(conversation_ids)})).all()
    if erased:
        unsent = any_of(Email.id, erased) & Email.data_at.is_(None)
        again = {"next_attempt_at": func.clock_timestamp()}
        await move_emails(session, unsent, EmailState.SCHEDULED, again, leaving=(EmailState.SENDING,))


async def erase_originals(session: AsyncSession, message_ids: Collection[UUID]) -> None:
    """Erase the original emails of removed messages."""
    await session.execute(_ERASE_ORIGINALS, {"ids": sorted(message_ids)})


async def cancel_conversation_erasures(session: AsyncSession) -> None:
    """Cancel the erasure of conversations: the event log was restored, and they may exist again.

    The rebuild deletes those that don't.
    """
    await session.execute(delete(Erasure).where(Erasure.conversation_id.is_not(None)))


async def under_erasure(session: AsyncSession, user_ids: Collection[str]) -> set[str]:
    """Return the ids of users whose addresses are still being erased."""
    return set(await session.scalars(select(Erasure.user_id).where(Erasure.user_id.in_(user_ids))))


async def read_state(session: AsyncSession) -> State:
    """Return the state of pending erasures."""
    return State(*(await session.execute(_STATE)).one())


async def _erase_conversation(session: AsyncSession, conversation_id: UUID, size: int) -> tuple[int, bool]:
    """Erase a conversation's next notifications and emails; return the rows, and whether they were the last."""
    values = {"id": conversation_id, "size": size}
    counts = [len((await session.scalars(statement, values)).all()) for statement in _ERASE]
    return sum(counts), max(counts) < size


async def _erase_addresses(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase a user's address from the next emails to and from them, and servers' replies, which may quote it."""
    emails = select(Email.id).where(
        Email.recipient_id == erasure.user_id,
        Email.audience != Audience.SUPPORT,
        Email.created_at <= erasure.until,
        Email.id > erasure.after,
    )
    batch = (await session.scalars(emails.order_by(Email.id).limit(size).with_for_update())).all()
    erased = {"to_address": None, "mailbox": None}
    no_sync = {"synchronize_session": False}
    await session.execute(update(Email).where(any_of(Email.id, batch)).values(erased), execution_options=no_sync)
    replies = update(DeliveryAttempt).where(any_of(DeliveryAttempt.email_id, batch)).values(reply="", mailbox=None)
    await session.execute(replies, execution_options=no_sync)
    erasure.after = max(batch, default=erasure.after)
    values = {"user": erasure.user_id, "until": erasure.until, "size": size}
    inbound = (await session.scalars(_ERASE_INBOUND_OF_USER, values)).all()
    return len(batch) + len(inbound), max(len(batch), len(inbound)) < size


# An email that was not yet posted never is.
ERASED = f"""
    original = null, from_address = null, same_as = id::text, lease_id = null, lease_until = null,
    finished_at = coalesce(finished_at, clock_timestamp()),
    reason = case when state in ('{InboundState.RECEIVED}', '{InboundState.HELD}') then '{InboundReason.ERASED}'
        else reason end,
    state = case when state in ('{InboundState.RECEIVED}', '{InboundState.HELD}') then '{InboundState.REFUSED}'
        else state end
"""

_COUNT = text("""
    select deleted.id, (
        select count(*) from (
            (select from notifications where conversation_id = deleted.id order by number limit :most)
            union all (
                select from emails left join email_messages on email_messages.email_id = emails.id
                where emails.conversation_id = deleted.id limit :most
            )
            union all (select from inbound_emails where conversation_id = deleted.id limit :most)
        ) as held
    ) as rows
    from unnest(cast(:ids as uuid[])) with ordinality as deleted (id, turn) order by turn
""")

# Notifications before emails, each in the order of the key: the same order in which event handlers lock them.
_ERASE = [
    text("""
        delete from notifications where id in (
            select id from notifications where conversation_id = :id order by number limit :size for update
        )
        returning id
    """),
    text("""
        delete from email_messages where message_id in (
            select email_messages.message_id from emails join email_messages on email_messages.email_id = emails.id
            where emails.conversation_id = :id limit :size
        )
        returning message_id
    """),
    text("""
        update emails set subject = null where id in (
            select id from emails where conversation_id = :id and subject is not null
            order by id limit :size for update
        )
        returning id
    """),
    text("""
        update reply_addresses set fingerprints = '' where email_id in (
            select email_id from reply_addresses join emails on emails.id = email_id
            where conversation_id = :id and fingerprints <> '' limit :size
        )
        returning email_id
    """),
    text(f"""
        update inbound_emails set {ERASED} where id in (
            select id from inbound_emails where conversation_id = :id and same_as <> id::text
            order by id limit :size for update
        )
        returning id
    """),  # noqa: S608 - built from constants
]

_ERASE_INBOUND = text(
    f"update inbound_emails set {ERASED} where conversation_id = any(cast(:ids as uuid[])) and same_as <> id::text"  # noqa: S608 - built from constants
)
_ERASE_FINGERPRINTS = text("""
    update reply_addresses set fingerprints = ''
    from emails where emails.id = email_id and conversation_id = any(cast(:ids as uuid[])) and fingerprints <> ''
""")
_ERASE_FROM_DIGESTS = text("""
    with erased as (
        delete from email_messages where conversation_id = any(cast(:ids as uuid[])) returning email_id
    )
    select distinct email_id from erased
""")
_ERASE_ORIGINALS = text("""
    update inbound_emails set original = null, from_address = null where message_id = any(cast(:ids as uuid[]))
""")
_ERASE_INBOUND_OF_USER = text(f"""
    with erased as (
        update inbound_emails set {ERASED} where id in (
            select id from inbound_emails where user_id = :user and received_at <= :until and same_as <> id::text
            order by id limit :size for update
        )
        returning id, reason
    ), logged as (
        {INBOUND_UPDATED_SQL} erased where reason = '{InboundReason.ERASED}'
    )
    select id from erased
""")  # noqa: S608 - built from constants

_STATE = text("""
    select count(*), coalesce(sum(erased), 0)::bigint,
        coalesce(extract(epoch from clock_timestamp() - max(advanced_at))::float8, 0)
    from erasures
""")
