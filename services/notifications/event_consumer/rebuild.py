"""When the log or this database is no longer what it was: restored from a backup, or purged beyond the cursor.

A lost place in the log: the present state of the other service is read instead, and what is here is made to agree
with it. A restored database of this service: the log remembers how far it had come; the log is read again, but mail
of that time may have been sent, so it is failed, visibly, and not sent again unless somebody says so.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import NAMESPACE_OID, UUID, uuid5

import httpx2
import structlog
from sqlalchemy import ColumnElement, and_, delete, func, select, text, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from services.notifications.delivery.circuit_breaker import read_sending_state
from services.notifications.delivery.erasure import cancel_conversation_erasures
from services.notifications.delivery.scheduling import review_emails
from services.notifications.delivery.transitions import WAITING_STATES, move_emails
from services.notifications.event_consumer.feed_client import SNAPSHOT_PAGE, read_snapshot
from services.notifications.event_consumer.handlers import handle_payloads
from services.notifications.models import (
    ConversationState,
    Email,
    EmailMessage,
    FeedCursor,
    InboxEntry,
    Notification,
    SendingControl,
)
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import EmailSettings
from shared.database import SessionFactory, transaction
from shared.events import (
    PAYLOADS,
    SNAPSHOTS,
    ConversationDeleted,
    ConversationRead,
    Event,
    Feed,
    Kind,
    MessagePosted,
    Payload,
)
from shared.outages import is_outage

RESTORED = "restored"  # no incarnation of any database: mail waits
RESET_BATCH = 5000  # rows

log = structlog.get_logger()


def position_loss_reason(cursor: FeedCursor, page: Feed | None) -> str | None:
    """Say why the cursor is no place in this log, or None when it is one."""
    if page is None:
        return "the log no longer reaches back to where this service had come"
    if (cursor.epoch is not None and page.epoch != cursor.epoch) or page.head < cursor.position:
        return "the log was restored from a backup, or lives on elsewhere"
    return None


async def begin_rebuild(sessions: SessionFactory, lost: FeedCursor, end: Feed, reason: str) -> None:
    """Go to the end of the log, and read the present state from its beginning instead of what lies between."""
    if end.epoch != lost.epoch or end.head < lost.position:
        async with transaction(sessions) as session:
            await cancel_conversation_erasures(session)
        await _forget_versions(sessions, lost)
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if not _is_same_place(cursor, lost):
            return  # another sweeper has begun it
        log.error("place in the log lost, rebuilding from the present state", reason=reason, position=lost.position)
        if end.acknowledged > cursor.position:
            await _hold(session, cursor, end)
        if cursor.restored_to is not None:
            cursor.restored_to = min(cursor.restored_to, end.head)  # this log may never come as far again
        cursor.position, cursor.head, cursor.epoch = end.head, end.head, end.epoch
        cursor.rebuild_reason, cursor.rebuild_kind, cursor.rebuild_after = reason, next(iter(Kind)), None


async def _forget_versions(sessions: SessionFactory, lost: FeedCursor) -> None:
    """Let all that the present state tells be news: the versions of the lost part of the log come again.

    In batches, and again from the beginning after a crash: the epoch is noted behind it. But never behind a rebuild
    that another sweeper has begun.
    """
    for statement, first in ((_FORGET_PEOPLE, ""), (_FORGET_MARKS, UUID(int=0))):
        last: str | UUID | None = first
        while last is not None:
            async with transaction(sessions) as session:
                if not _is_same_place(await _lock_cursor(session), lost):
                    return
                last = await session.scalar(statement, {"after": last, "size": RESET_BATCH})


def _is_same_place(cursor: FeedCursor, other: FeedCursor) -> bool:
    return (cursor.position, cursor.epoch) == (other.position, other.epoch)


async def rebuild_page(sessions: SessionFactory, feed: httpx2.AsyncClient, settings: EmailSettings) -> bool:
    """Make the next page of the present state true here; False when no rebuild is under way."""
    async with transaction(sessions) as session:
        seen = await session.get_one(FeedCursor, True)
        asked_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    if seen.rebuild_kind is None:
        return False
    kind = Kind(seen.rebuild_kind)
    page = await read_snapshot(feed, kind, seen.rebuild_after)
    told = [SNAPSHOTS[kind].model_validate(item) for item in page.items]
    # Mail to support was sent for what is older, or was not wanted then.
    recent = asked_at - timedelta(days=settings.retention_days)
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if (cursor.rebuild_kind, cursor.rebuild_after) != (seen.rebuild_kind, seen.rebuild_after):
            return True  # another sweeper has done this page
        await _make_true(session, [one for one in told if _matters(one, recent)], settings)
        if not await _remove_others(session, kind, told, (seen.rebuild_after, page.last), asked_at, settings):
            return True  # the same page once more, which does no harm
        cursor.rebuild_after = page.last
        if page.last is None:
            kinds = [*Kind, None]
            cursor.rebuild_kind = kinds[kinds.index(kind) + 1]
        if cursor.rebuild_kind is None:
            cursor.rebuilt_at = func.clock_timestamp()
            log.error("rebuilt from the present state", reason=cursor.rebuild_reason)
    return True


async def _make_true(session: AsyncSession, told: Sequence[Payload], settings: EmailSettings) -> None:
    """Let some of the present state take effect; what fails is parked as an event, and holds up nothing else."""
    try:
        async with session.begin_nested():
            await handle_payloads(session, told, settings)
    except Exception as error:
        if is_outage(error):
            raise
        for one in told if len(told) > 1 else ():
            await _make_true(session, [one], settings)
        if len(told) == 1:
            await _park(session, told[0], f"failed in a rebuild: {type(error).__name__}")


async def _park(session: AsyncSession, one: Payload, reason: str) -> None:
    payload = one.model_dump(mode="json")
    kind = next(kind for kind, payload_type in PAYLOADS.items() if isinstance(one, payload_type))
    identity = uuid5(NAMESPACE_OID, one.model_dump_json())  # the same in the next rebuild
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    event = Event(id=identity, type=kind, occurred_at=now, payload=payload).model_dump(mode="json")
    log.error("event parked", event_id=str(identity), type=kind, reason=reason)
    parked = {"handled_at": None, "parked_at": now, "reason": reason, "event": event}
    entry = insert(InboxEntry).values(event_id=identity, type=kind, **parked)
    await session.execute(entry.on_conflict_do_update(index_elements=[InboxEntry.event_id], set_=parked))


async def note_restored(sessions: SessionFactory, page: Feed) -> None:
    """Hold all mail if this database knows less than the log says that this service had done."""
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if page.acknowledged > max(cursor.position, cursor.restored_to or 0):
            await _hold(session, cursor, page)


async def hold_emails(session: AsyncSession) -> None:
    """Hold all mail: this database was just restored from a backup, and more mail may have been sent than it knows."""
    cursor = await _lock_cursor(session)
    cursor.restored_to = max(cursor.restored_to or 0, cursor.position)
    cursor.restored_until = func.clock_timestamp()
    await session.execute(update(SendingControl).values(incarnation=RESTORED))


async def release_restore_hold(sessions: SessionFactory, database_identity: str, seen: FeedCursor) -> None:
    """Let mail go again once the log was read as far as this service had ever come.

    Nothing is said of another database than the one that was looked at. The mail of that time may have been sent: it
    is failed, and can be retried by hand.
    """
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        state = await read_sending_state(session)
        if state.is_confirmed or state.database_identity != database_identity or cursor.position < seen.position:
            return
        if cursor.rebuild_kind is not None or cursor.position < (cursor.restored_to or 0):
            return
        if cursor.restored_until is not None:
            # What was not due by then was not sent, and who is behind its DATA right now will say so.
            maybe_sent = (Email.due_at <= cursor.restored_until) & Email.data_at.is_(None)
            values = {"reason": Reason.RESTORED}
            failed = await move_emails(session, maybe_sent, EmailState.FAILED, values, leaving=WAITING_STATES)
            log.error("mail that may have been sent before the restore is failed", emails=len(failed))
        cursor.restored_to = cursor.restored_until = None
        await session.execute(update(SendingControl).values(incarnation=state.database_identity))


async def _hold(session: AsyncSession, cursor: FeedCursor, page: Feed) -> None:
    log.error("this database was restored from a backup: mail waits", knows=cursor.position, had=page.acknowledged)
    times = (time for time in (cursor.restored_until, page.acknowledged_at) if time is not None)
    cursor.restored_to, cursor.restored_until = page.acknowledged, max(times)
    await session.execute(update(SendingControl).values(incarnation=RESTORED))


async def _lock_cursor(session: AsyncSession) -> FeedCursor:
    return await session.get_one(FeedCursor, True, with_for_update=True)


def _matters(told: Payload, recent: datetime) -> bool:
    if isinstance(told, MessagePosted) and told.message.sender_role == "customer":
        return told.message.created_at > recent
    return True


async def _remove_others(
    session: AsyncSession,
    kind: Kind,
    told: Sequence[Payload],
    stretch: tuple[str | None, str | None],
    asked_at: datetime,
    settings: EmailSettings,
) -> bool:
    """Remove some of what is known here of this stretch of ids and is no longer there; True when that was all.

    Only what was known before the page was asked for: what came since may be newer than the page.
    """
    removed = 0
    match kind:
        case Kind.READS:
            there = {one.conversation_id for one in told if isinstance(one, ConversationRead)}
            lacking = (
                select(ConversationState.conversation_id)
                .where(
                    _within(ConversationState.conversation_id, stretch),
                    ConversationState.conversation_id.not_in(there),
                    ConversationState.deleted_at.is_(None),
                    ConversationState.created_at < asked_at,
                )
                .limit(SNAPSHOT_PAGE)
            )
            gone = [ConversationDeleted(conversation_id=key) for key in await session.scalars(lacking)]
            await handle_payloads(session, gone, settings)
            removed = len(gone)
        case Kind.MESSAGES:
            present = {one.message.id for one in told if isinstance(one, MessagePosted)}
            removed = await _remove_records(
                session,
                _within(Notification.message_id, stretch)
                & Notification.message_id.not_in(present)
                & (Notification.created_at < asked_at),
                settings,
            )
    return removed < SNAPSHOT_PAGE


def _within(column: InstrumentedAttribute[UUID], stretch: tuple[str | None, str | None]) -> ColumnElement[bool]:
    after, last = stretch
    return and_(
        column > UUID(after) if after is not None else true(), column <= UUID(last) if last is not None else true()
    )


async def _remove_records(session: AsyncSession, which: ColumnElement[bool], settings: EmailSettings) -> int:
    """Remove some records of messages that are gone, and these from mails that are still open; return how many."""
    some = select(Notification.id).where(which).order_by(Notification.id).limit(SNAPSHOT_PAGE).with_for_update()
    these = delete(Notification).where(Notification.id.in_((await session.scalars(some)).all()))
    removed = (await session.execute(these.returning(Notification.message_id, Notification.conversation_id))).all()
    if not removed:
        return 0
    still_open = select(Email.id).where(Email.state == EmailState.SCHEDULED, Email.claimed_at.is_(None))
    await session.execute(
        delete(EmailMessage).where(
            EmailMessage.message_id.in_([row.message_id for row in removed]), EmailMessage.email_id.in_(still_open)
        )
    )
    await review_emails(session, {row.conversation_id for row in removed}, Audience.CUSTOMER, settings)
    return len(removed)


# The last id of a batch is what the next one begins behind; no row is written that has nothing to forget.
_FORGET_PEOPLE = text("""
    with batch as (select id from people where id > :after order by id limit :size),
    forgotten as (update people set version = 0 where id in (select id from batch) and version > 0)
    select max(id) from batch
""")
_FORGET_MARKS = text("""
    with batch as (
        select conversation_id from marks where conversation_id > :after order by conversation_id limit :size
    ),
    forgotten as (
        update marks set read_by_user_number = 0, read_by_admin_number = 0, deleted_at = null
        where conversation_id in (select conversation_id from batch)
            and (read_by_user_number > 0 or read_by_admin_number > 0 or deleted_at is not null)
    )
    select conversation_id from batch order by conversation_id desc limit 1
""")
