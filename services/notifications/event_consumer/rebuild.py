"""Recovery after a restore from a backup, or after the log was purged beyond the cursor.

If the position in the log is lost, this service is rebuilt from a snapshot of the conversations service. If this
service's own database was restored, the log remembers the last acknowledged position. The log is then read again, and
emails from that time, which may have been sent, are marked as failed; an operator can retry them.
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
from services.notifications.event_consumer.admins import find_acts
from services.notifications.event_consumer.feed_client import SNAPSHOT_PAGE, read_snapshot
from services.notifications.event_consumer.handlers import handle_payloads
from services.notifications.models import (
    AdminMark,
    AdminNotification,
    ConversationState,
    Email,
    EmailMessage,
    FeedCursor,
    InboxEntry,
    Notification,
    SendingControl,
)
from services.notifications.rules import ACTS, Audience, EmailState, NotificationType, Reason
from services.notifications.settings import EmailSettings
from shared.database.errors import is_outage
from shared.database.transactions import SessionFactory, transaction, transaction_driver
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

RESTORED = "restored"  # not the identity of any database, so no emails are sent
RESET_BATCH = 5000  # rows

log = structlog.get_logger()


def position_loss_reason(cursor: FeedCursor, page: Feed | None) -> str | None:
    """Return why the cursor is not a valid position in this log, or None if it is."""
    if page is None:
        return "events after this service's position were purged"
    if (cursor.epoch is not None and page.epoch != cursor.epoch) or page.head < cursor.position:
        return "the log was restored from a backup or moved to another database"
    return None


async def begin_rebuild(sessions: SessionFactory, lost: FeedCursor, end: Feed, reason: str) -> None:
    """Move the cursor to the end of the log, and begin to read the snapshot instead of the events in between."""
    if end.epoch != lost.epoch or end.head < lost.position:
        async with transaction(sessions) as session:
            await cancel_conversation_erasures(session)
            await session.execute(delete(AdminMark))  # the numbers may be those of other messages
        await _reset_versions(sessions, lost)
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if not _is_same_position(cursor, lost):
            return  # another sweeper has begun the rebuild
        log.error("log position lost, rebuilding from a snapshot", reason=reason, position=lost.position)
        if end.acknowledged > cursor.position:
            await _hold(session, cursor, end)
        if cursor.restored_to is not None:
            cursor.restored_to = min(cursor.restored_to, end.head)  # this log may never reach that position again
        cursor.position, cursor.head, cursor.epoch = end.head, end.head, end.epoch
        cursor.rebuild_reason, cursor.rebuild_kind, cursor.rebuild_after = reason, next(iter(Kind)), None


async def _reset_versions(sessions: SessionFactory, lost: FeedCursor) -> None:
    """Reset stored versions so the snapshot overwrites them.

    Works in batches, and starts over after a crash, because the epoch is only saved afterwards. Stops if another
    sweeper has begun the rebuild.
    """
    for statement, first in ((_RESET_PEOPLE, ""), (_RESET_STATES, UUID(int=0))):
        last: str | UUID | None = first
        while last is not None:
            async with transaction(sessions) as session:
                if not _is_same_position(await _lock_cursor(session), lost):
                    return
                last = await session.scalar(statement, {"after": last, "size": RESET_BATCH})


def _is_same_position(cursor: FeedCursor, other: FeedCursor) -> bool:
    return (cursor.position, cursor.epoch) == (other.position, other.epoch)


async def rebuild_page(sessions: SessionFactory, feed: httpx2.AsyncClient, settings: EmailSettings) -> bool:
    """Apply the next page of the snapshot; return False if no rebuild is in progress."""
    async with transaction(sessions) as session:
        seen = await session.get_one(FeedCursor, True)
        requested_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    if seen.rebuild_kind is None:
        return False
    kind = Kind(seen.rebuild_kind)
    page = await read_snapshot(feed, kind, seen.rebuild_after)
    payloads = [SNAPSHOTS[kind].model_validate(item) for item in page.items]
    # Support has already been emailed about older messages, if it was configured.
    recent = requested_at - timedelta(days=settings.retention_days)
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if (cursor.rebuild_kind, cursor.rebuild_after) != (seen.rebuild_kind, seen.rebuild_after):
            return True  # another sweeper has applied this page
        await _apply(session, [payload for payload in payloads if _is_relevant(payload, recent)], settings)
        if not await _remove_missing(session, kind, payloads, (seen.rebuild_after, page.last), requested_at, settings):
            return True  # repeat this page, which is idempotent
        cursor.rebuild_after = page.last
        if page.last is None:
            kinds = [*Kind, None]
            cursor.rebuild_kind = kinds[kinds.index(kind) + 1]
        if cursor.rebuild_kind is None:
            cursor.rebuilt_at = func.clock_timestamp()
            log.error("rebuilt from a snapshot", reason=cursor.rebuild_reason)
    return True


async def _apply(session: AsyncSession, payloads: Sequence[Payload], settings: EmailSettings) -> None:
    """Handle payloads of the snapshot; failing ones are parked as events and do not block the others."""
    try:
        async with session.begin_nested():
            await handle_payloads(session, payloads, settings)
    except Exception as error:
        if is_outage(error):
            raise
        for payload in payloads if len(payloads) > 1 else ():
            await _apply(session, [payload], settings)
        if len(payloads) == 1:
            await _park(session, payloads[0], f"failed in a rebuild: {type(error).__name__}")


async def _park(session: AsyncSession, payload: Payload, reason: str) -> None:
    data = payload.model_dump(mode="json")
    event_type = next(event_type for event_type, model in PAYLOADS.items() if isinstance(payload, model))
    event_id = uuid5(NAMESPACE_OID, payload.model_dump_json())  # the same in the next rebuild
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    event = Event(id=event_id, type=event_type, occurred_at=now, payload=data).model_dump(mode="json")
    log.error("event parked", event_id=str(event_id), type=event_type, reason=reason)
    parked = {"handled_at": None, "parked_at": now, "reason": reason, "event": event}
    entry = insert(InboxEntry).values(event_id=event_id, type=event_type, **parked)
    await session.execute(entry.on_conflict_do_update(index_elements=[InboxEntry.event_id], set_=parked))


async def note_restored(sessions: SessionFactory, page: Feed) -> None:
    """Hold all emails if the acknowledged position is after the cursor: this database was restored."""
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        if page.acknowledged > max(cursor.position, cursor.restored_to or 0):
            await _hold(session, cursor, page)


async def hold_emails(session: AsyncSession) -> None:
    """Hold all emails after this database was restored from a backup: it may not know all emails that were sent."""
    cursor = await _lock_cursor(session)
    cursor.restored_to = max(cursor.restored_to or 0, cursor.position)
    cursor.restored_until = func.clock_timestamp()
    await session.execute(update(SendingControl).values(incarnation=RESTORED))


async def release_restore_hold(sessions: SessionFactory, database_identity: str, seen: FeedCursor) -> None:
    """Resume sending once the log was read up to the last position that this service had acknowledged.

    Does nothing if the database has changed since `database_identity` was read. Emails that may have been sent before
    the restore are marked as failed; an operator can retry them.
    """
    async with transaction(sessions) as session:
        cursor = await _lock_cursor(session)
        state = await read_sending_state(session)
        if state.is_confirmed or state.database_identity != database_identity or cursor.position < seen.position:
            return
        if cursor.rebuild_kind is not None or cursor.position < (cursor.restored_to or 0):
            return
        if cursor.restored_until is not None:
            # Emails due later were not sent. An email that has reached DATA now will have its result recorded.
            maybe_sent = (Email.due_at <= cursor.restored_until) & Email.data_at.is_(None)
            values = {"reason": Reason.RESTORED}
            failed: list[UUID] = []
            for waiting in WAITING_STATES:  # each has an index
                failed += await move_emails(session, maybe_sent, EmailState.FAILED, values, leaving=(waiting,))
            driver = await transaction_driver(session)
            await driver.execute(_SPLIT_EMAILS, failed, cursor.restored_until)
            log.error("emails that may have been sent before the restore marked as failed", emails=len(failed))
        cursor.restored_to = cursor.restored_until = None
        await session.execute(update(SendingControl).values(incarnation=state.database_identity))


# Messages that joined an email after the restore get one of their own: they were certainly not sent.
_SPLIT_EMAILS = """
    with splits as (
        select email_id, uuidv7() as new_id
        from email_messages join emails on emails.id = email_id
        where email_id = any($1::uuid[]) and email_messages.created_at > $2 and claimed_at is null
        group by email_id
    ), created as (
        insert into emails (id, audience, recipient_id, conversation_id, subject, state, due_at, next_attempt_at)
        select new_id, audience, recipient_id, conversation_id, subject, 'scheduled', now(), now()
        from splits join emails on emails.id = email_id
    )
    update email_messages set email_id = new_id
    from splits where email_messages.email_id = splits.email_id and created_at > $2
"""


async def _hold(session: AsyncSession, cursor: FeedCursor, page: Feed) -> None:
    log.error("database was restored, emails on hold", position=cursor.position, acknowledged=page.acknowledged)
    times = (time for time in (cursor.restored_until, page.acknowledged_at) if time is not None)
    cursor.restored_to, cursor.restored_until = page.acknowledged, max(times)
    await session.execute(update(SendingControl).values(incarnation=RESTORED))


async def _lock_cursor(session: AsyncSession) -> FeedCursor:
    return await session.get_one(FeedCursor, True, with_for_update=True)


def _is_relevant(payload: Payload, recent: datetime) -> bool:
    if isinstance(payload, MessagePosted) and payload.message.sender_role == "customer":
        return payload.message.created_at > recent
    return True


async def _remove_missing(
    session: AsyncSession,
    kind: Kind,
    payloads: Sequence[Payload],
    id_range: tuple[str | None, str | None],
    requested_at: datetime,
    settings: EmailSettings,
) -> bool:
    """Remove a batch of rows in this range of ids that are not in the snapshot; return whether these were all.

    Rows created since the page was requested are kept: they may be newer than the page.
    """
    removed = 0
    match kind:
        case Kind.READS:
            present = {payload.conversation_id for payload in payloads if isinstance(payload, ConversationRead)}
            missing = (
                select(ConversationState.conversation_id)
                .where(
                    _within(ConversationState.conversation_id, id_range),
                    ConversationState.conversation_id.not_in(present),
                    ConversationState.deleted_at.is_(None),
                    ConversationState.created_at < requested_at,
                )
                .limit(SNAPSHOT_PAGE)
            )
            deleted = [ConversationDeleted(conversation_id=key) for key in await session.scalars(missing)]
            await handle_payloads(session, deleted, settings)
            removed = len(deleted)
        case Kind.MESSAGES:
            present = {payload.message.id for payload in payloads if isinstance(payload, MessagePosted)}
            removed = await _remove_notifications(
                session,
                _within(Notification.message_id, id_range)
                & Notification.message_id.not_in(present)
                & (Notification.created_at < requested_at),
                settings,
            )
            of_lost = _within(AdminNotification.source_id, id_range) & AdminNotification.source_id.not_in(present)
            by_customers = AdminNotification.type.not_in(ACTS) & (AdminNotification.number > 0)
            earlier = func.uuid_extract_timestamp(AdminNotification.turn) < requested_at
            await session.execute(delete(AdminNotification).where(of_lost, by_customers, earlier))
        case Kind.NOTES:
            await _remove_acts(session, NotificationType.MENTION, payloads, id_range, requested_at)
        case Kind.ASSIGNMENTS:
            await _remove_acts(session, NotificationType.ASSIGNED, payloads, id_range, requested_at)
    return removed < SNAPSHOT_PAGE


async def _remove_acts(
    session: AsyncSession,
    type_: NotificationType,
    payloads: Sequence[Payload],
    id_range: tuple[str | None, str | None],
    requested_at: datetime,
) -> None:
    """Remove notifications of what was lost with the log, or has been seen: the snapshot has only the others."""
    present = {act.source_id for act in find_acts(payloads)}
    earlier = func.uuid_extract_timestamp(AdminNotification.turn) < requested_at
    of_others = _within(AdminNotification.source_id, id_range) & AdminNotification.source_id.not_in(present)
    await session.execute(delete(AdminNotification).where(AdminNotification.type == type_, of_others, earlier))


def _within(column: InstrumentedAttribute[UUID], id_range: tuple[str | None, str | None]) -> ColumnElement[bool]:
    after, last = id_range
    return and_(
        column > UUID(after) if after is not None else true(), column <= UUID(last) if last is not None else true()
    )


async def _remove_notifications(session: AsyncSession, which: ColumnElement[bool], settings: EmailSettings) -> int:
    """Delete a batch of notifications, and remove their messages from open emails; return the number."""
    batch = select(Notification.id).where(which).order_by(Notification.id).limit(SNAPSHOT_PAGE).with_for_update()
    statement = delete(Notification).where(Notification.id.in_((await session.scalars(batch)).all()))
    removed = (await session.execute(statement.returning(Notification.message_id, Notification.conversation_id))).all()
    if not removed:
        return 0
    open_emails = select(Email.id).where(Email.state == EmailState.SCHEDULED, Email.claimed_at.is_(None))
    await session.execute(
        delete(EmailMessage).where(
            EmailMessage.message_id.in_([row.message_id for row in removed]), EmailMessage.email_id.in_(open_emails)
        )
    )
    await review_emails(session, {row.conversation_id for row in removed}, Audience.CUSTOMER, settings)
    return len(removed)


# Returns the last id of the batch, after which the next batch begins. Rows without anything to reset are not updated.
_RESET_PEOPLE = text("""
    with batch as (select id from people where id > :after order by id limit :size),
    reset as (update people set version = 0 where id in (select id from batch) and version > 0)
    select max(id) from batch
""")
_RESET_STATES = text("""
    with batch as (
        select conversation_id from marks where conversation_id > :after order by conversation_id limit :size
    ),
    reset as (
        update marks set read_by_user_number = 0, read_by_admin_number = 0, deleted_at = null
        where conversation_id in (select conversation_id from batch)
            and (read_by_user_number > 0 or read_by_admin_number > 0 or deleted_at is not null)
    )
    select conversation_id from batch order by conversation_id desc limit 1
""")
