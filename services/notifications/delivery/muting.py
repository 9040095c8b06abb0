"""Customers who want no emails, about one conversation or at all. None of these functions commits."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_log.append import STOP_UPDATED_SQL, append_events
from services.notifications.models import Email, Mute
from services.notifications.rules import Audience, InboundState
from shared.database.orm import any_of
from shared.database.transactions import transaction_driver
from shared.events import MessagePosted
from shared.notifications_feed import LoggedType


class Wish(StrEnum):
    """What a customer wants of the emails: none about a conversation, none at all, or all of them again."""

    CONVERSATION = "conversation"
    EVERYTHING = "all"
    NOTHING = "none"


class Muting(NamedTuple):
    """Whether a customer gets no emails about a conversation, or none at all."""

    conversation: bool
    everything: bool


async def find_muted(session: AsyncSession, emails: Collection[Email]) -> set[UUID]:
    """Return the ids of the emails whose recipients do not want them."""
    to_customers = [email for email in emails if email.audience == Audience.CUSTOMER]
    if not to_customers:
        return set()
    recipients = any_of(Mute.user_id, {email.recipient_id for email in to_customers})
    rows = await session.execute(select(Mute.user_id, Mute.conversation_id).where(recipients))
    mutes = {(user_id, conversation_id) for user_id, conversation_id in rows}
    return {
        email.id
        for email in to_customers
        if {(email.recipient_id, email.conversation_id), (email.recipient_id, None)} & mutes
    }


async def read_muting(session: AsyncSession, user_id: str, conversation_id: UUID | None) -> Muting:
    """Return what a customer wants of the emails, about a conversation or in general."""
    query = select(Mute.conversation_id).where(Mute.user_id == user_id, _concerns(conversation_id))
    muted = (await session.scalars(query)).all()
    return Muting(conversation_id is not None and conversation_id in muted, None in muted)


async def set_muting(session: AsyncSession, user_id: str, conversation_id: UUID | None, wish: Wish) -> None:
    """Do what a customer wants, for emails that are not yet being sent.

    Without a conversation, turning emails on again ends what concerns all of them.
    """
    if wish is Wish.NOTHING:
        gone = delete(Mute).where(Mute.user_id == user_id, _concerns(conversation_id)).returning(Mute.id)
        changed = (await session.scalars(gone)).all()
    else:
        muted = conversation_id if wish is Wish.CONVERSATION else None
        begun = insert(Mute).values(user_id=user_id, conversation_id=muted).on_conflict_do_nothing().returning(Mute.id)
        changed = (await session.scalars(begun)).all()
    await append_events(session, LoggedType.STOP_UPDATED, changed)


def _concerns(conversation_id: UUID | None) -> ColumnElement[bool]:
    """Return the condition that a mute concerns a conversation: that one, or all of them."""
    everything = Mute.conversation_id.is_(None)
    return everything if conversation_id is None else everything | (Mute.conversation_id == conversation_id)


async def unmute_written(session: AsyncSession, posted: Sequence[MessagePosted]) -> None:
    """Send emails again about the muted conversations in which their customers have written since.

    An email of somebody else, which an admin posted as the customer's message, says nothing of what the customer wants.
    """
    if not posted:
        return
    rows = ((event.customer.id, event.conversation_id, event.message.created_at, event.message.id) for event in posted)
    columns = zip(*rows, strict=True)
    await (await transaction_driver(session)).execute(_UNMUTE, *columns)


_UNMUTE = f"""
    with unmuted as (
        delete from mutes
        using unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::uuid[])
            as written (user_id, conversation_id, at, message_id)
        where mutes.user_id = written.user_id and mutes.conversation_id = written.conversation_id
            and mutes.muted_at < written.at
            -- The event may come before the row of the email knows its message.
            and not exists (
                select from inbound_emails as email
                where email.conversation_id = written.conversation_id and email.posted_by is not null
                    and (email.message_id = written.message_id or email.state = '{InboundState.RECEIVED}')
                    and email.from_address is distinct from (
                        select lower(people.email) from people where people.id = written.user_id
                    )
            )
        returning mutes.id
    )
    {STOP_UPDATED_SQL} unmuted
"""  # noqa: S608 - built from constants
