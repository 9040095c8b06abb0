"""Erase messages whose text an admin has removed."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Text, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.erasure import erase_originals
from services.notifications.delivery.transitions import UNSENT_STATES, cancel_emails, move_emails
from services.notifications.event_consumer.admins import find_items
from services.notifications.models import ConversationState, Email, EmailMessage, InboxEntry, Notification
from services.notifications.rules import EmailState, Reason
from shared.database.orm import any_of
from shared.events import MessageRemoved, NoteDeleted


async def remember_removed(session: AsyncSession, removed: Sequence[MessageRemoved]) -> None:
    """Add removed messages to the locked states of their conversations, and delete their notifications.

    Their own events may arrive later, and then have no effect.
    """
    ids_by_conversation: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for payload in removed:
        ids_by_conversation[payload.conversation_id].add(payload.message_id)
    for conversation_id, ids in ids_by_conversation.items():
        state = await session.get_one(ConversationState, conversation_id, populate_existing=True)
        state.removed_ids = sorted({*state.removed_ids, *ids})
    await session.flush()
    await session.execute(delete(Notification).where(any_of(Notification.message_id, _ids(removed))))


async def erase_removed(session: AsyncSession, removed: Sequence[MessageRemoved | NoteDeleted]) -> None:
    """Erase removed messages and notes from emails and parked events, and cancel emails that have no other message.

    The caller has locked the unsent emails of the conversations.
    """
    if not removed:
        return
    sources = _ids(removed)
    ids = [*sources, *await find_items(session, {payload.conversation_id for payload in removed}, sources)]
    await session.execute(
        update(EmailMessage).where(any_of(EmailMessage.message_id, ids)).values(body="", files=None, left_out=True)
    )
    await erase_originals(session, ids)
    has_messages = exists().where(EmailMessage.email_id == Email.id, EmailMessage.left_out.is_(False))
    had_one = select(EmailMessage.email_id).where(any_of(EmailMessage.message_id, ids))
    await cancel_emails(session, Email.id.in_(had_one) & ~has_messages, Reason.DELETED, leaving=UNSENT_STATES)
    # One that is rendered with the text and not yet sent is rendered again: its sender finds the lease gone.
    rendered = Email.id.in_(had_one) & Email.data_at.is_(None)
    again = {"next_attempt_at": func.clock_timestamp()}
    await move_emails(session, rendered, EmailState.SCHEDULED, again, leaving=(EmailState.SENDING,))
    for source_id in sources:  # a parked event may have any shape
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event.cast(Text).contains(str(source_id)))
            .values(event=None)
            .execution_options(synchronize_session=False)
        )


def _ids(removed: Sequence[MessageRemoved | NoteDeleted]) -> list[UUID]:
    return sorted(
        {payload.message_id if isinstance(payload, MessageRemoved) else payload.note_id for payload in removed}
    )
