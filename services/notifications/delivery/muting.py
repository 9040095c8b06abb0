"""Customers who want no emails, about one conversation or at all. None of these functions commits."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import Email, Mute
from services.notifications.rules import Audience
from shared.database import transaction_driver
from shared.events import MessagePosted
from shared.orm import any_of


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


async def read_muting(session: AsyncSession, user_id: str, conversation_id: UUID) -> Muting:
    """Return what a customer wants of the emails about a conversation."""
    query = select(Mute.conversation_id).where(
        Mute.user_id == user_id, (Mute.conversation_id == conversation_id) | Mute.conversation_id.is_(None)
    )
    muted = (await session.scalars(query)).all()
    return Muting(conversation_id in muted, None in muted)


async def set_muting(session: AsyncSession, user_id: str, conversation_id: UUID, wish: Wish) -> None:
    """Do what a customer wants, for emails that are not yet being sent."""
    if wish is Wish.NOTHING:
        await session.execute(
            delete(Mute).where(
                Mute.user_id == user_id, (Mute.conversation_id == conversation_id) | Mute.conversation_id.is_(None)
            )
        )
        return
    muted = conversation_id if wish is Wish.CONVERSATION else None
    await session.execute(insert(Mute).values(user_id=user_id, conversation_id=muted).on_conflict_do_nothing())


async def unmute_written(session: AsyncSession, posted: Sequence[MessagePosted]) -> None:
    """Send emails again about the muted conversations in which their customers have written since."""
    if not posted:
        return
    rows = ((event.customer.id, event.conversation_id, event.message.created_at) for event in posted)
    columns = zip(*rows, strict=True)
    await (await transaction_driver(session)).execute(_UNMUTE, *columns)


_UNMUTE = """
    delete from mutes using unnest($1::text[], $2::uuid[], $3::timestamptz[]) as written (user_id, conversation_id, at)
    where mutes.user_id = written.user_id and mutes.conversation_id = written.conversation_id
        and mutes.muted_at < written.at
"""
