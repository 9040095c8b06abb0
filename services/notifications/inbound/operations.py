"""What admins and operators do with emails that came in: list them, post a held one, discard one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.errors import InboundNotWaiting
from services.notifications.event_log.append import append_events
from services.notifications.inbound.parsing.mime import parse_email
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.reply_text import read_text
from services.notifications.inbound.reply_content import MAX_SUBJECT
from services.notifications.mail.fingerprints import Fingerprints
from services.notifications.models import InboundEmail, Person
from services.notifications.rules import InboundKind, InboundReason, InboundState
from shared.notifications_feed import LoggedType
from shared.paging import decode_cursor, encode_cursor
from shared.problems import Invalid, NotFound
from shared.settings import Role

MAX_SHOWN: Final = 20_000  # characters of a text
MAX_SHOWN_FILES: Final = 100
POSTABLE: Final = (InboundState.HELD, InboundState.IGNORED)


async def list_inbound(
    session: AsyncSession,
    *,
    conversation_id: UUID | None,
    state: InboundState | None,
    kind: InboundKind | None = None,
    cursor: str | None,
    limit: int,
) -> tuple[list[tuple[InboundEmail, bool]], str | None]:
    """Return a page of emails, each with whether its original is kept, newest first, and the next cursor."""
    bound = (conversation_id, state, *((kind,) if kind else ()))
    query = select(InboundEmail, InboundEmail.original.is_not(None)).order_by(InboundEmail.id.desc())
    if conversation_id is not None:
        query = query.where(InboundEmail.conversation_id == conversation_id)
    if kind is not None:
        query = query.where(InboundEmail.kind == kind)
    if state is not None:
        query = query.where(InboundEmail.state == state)
    if cursor is not None:
        query = query.where(InboundEmail.id < decode_cursor(cursor, bound, UUID)[0])
    rows = [(row[0], row[1]) for row in (await session.execute(query.limit(limit + 1))).all()]
    page = rows[:limit]
    return page, encode_cursor(bound, [str(page[-1][0].id)]) if len(rows) > limit else None


@dataclass(frozen=True, slots=True)
class Contents:
    """What an email contains: its subject, its whole text with what it quotes, and its files as names and sizes."""

    subject: str
    text: str
    files: Sequence[tuple[str, int]]


async def find_inbound(session: AsyncSession, inbound_id: UUID) -> tuple[InboundEmail, Contents | None]:
    """Return an email and what it contains, None if that is not kept any more. Raises `NotFound`."""
    email = await session.get(InboundEmail, inbound_id)
    if email is None:
        raise NotFound("There is no such email.")
    original = await session.scalar(select(InboundEmail.original).where(InboundEmail.id == inbound_id))
    return email, None if original is None else await asyncio.to_thread(_contents, original)


def _contents(original: bytes) -> Contents:
    parsed = parse_email(original)
    text = read_text(parsed, Fingerprints([]), Known([])).text[:MAX_SHOWN]
    files = [(file.name or file.content_type, len(file.content)) for file in parsed.files[:MAX_SHOWN_FILES]]
    return Contents(
        parsed.header("subject")[:MAX_SUBJECT], text.replace("\x00", "").encode("utf-8", "replace").decode(), files
    )


async def read_original(session: AsyncSession, inbound_id: UUID) -> bytes:
    """Return the bytes of an email. Raises `NotFound` if there is none, or its original is not kept any more."""
    original = await session.scalar(select(InboundEmail.original).where(InboundEmail.id == inbound_id))
    if original is None:
        raise NotFound("There is no such email, or its original is not kept any more.")
    return original


async def post_inbound(
    session: AsyncSession, inbound_id: UUID, *, user_id: str | None = None, posted_by: str | None = None
) -> None:
    """Make a held or ignored email due. `user_id`: the customer whose conversation it opens, if it opens one.

    A reply to an email for admins becomes the words of the admin who posts it, and never those of somebody else.
    Raises `NotFound`, `InboundNotWaiting`, or `Invalid` for a customer that is missing or not known.
    """
    email = await session.get(InboundEmail, inbound_id)
    if email is None:
        raise NotFound("There is no such email.")
    values: dict[str, Any]
    values = {"state": InboundState.RECEIVED, "reason": None, "failing_since": None, "finished_at": None, "tries": 0}
    values |= {"next_attempt_at": func.clock_timestamp(), "posted_by": posted_by}
    if email.kind == InboundKind.CONVERSATION:
        values["user_id"] = await _customer(session, user_id or email.user_id)
    elif email.kind != InboundKind.MESSAGE:
        # An ignored one is a program's answer, or was discarded: why it was held is not known any more.
        is_admins = email.state == InboundState.HELD and email.reason != InboundReason.OTHER_SENDER
        if email.kind == InboundKind.ADMIN_MESSAGE and not is_admins:
            raise InboundNotWaiting("This is not certainly an admin's answer. Answer in the conversation instead.")
        values["user_id"] = posted_by or user_id
        if values["user_id"] is None:
            raise Invalid("Say which admin writes this.", ("body", "user_id"), "missing")
    elif user_id not in (None, email.user_id) and await _person_id(session, user_id) != email.user_id:
        raise Invalid("The conversation is another customer's.", ("body", "user_id"), "other_customer")
    await _move(session, inbound_id, values)


async def _customer(session: AsyncSession, user_id: str | None) -> str:
    """Return the id of a present customer, which is another one for a merged id. Raises `Invalid`."""
    if user_id is None:
        raise Invalid("Choose the customer who wrote this email.", ("body", "user_id"), "missing")
    person = await session.get(Person, await _person_id(session, user_id))
    if person is None or person.deleted or person.role not in {None, Role.CUSTOMER}:
        raise Invalid("There is no such customer.", ("body", "user_id"), "unknown_customer")
    return person.id


async def _person_id(session: AsyncSession, user_id: str | None) -> str | None:
    """Return whose id this is: the id of the person, which is this one unless it was merged."""
    return await session.scalar(select(Person.merged_into).where(Person.id == user_id)) or user_id


async def discard_inbound(session: AsyncSession, inbound_id: UUID) -> None:
    """End a held or ignored email: it never becomes a message. Raises as `post_inbound` does."""
    values = {"state": InboundState.IGNORED, "reason": InboundReason.DISCARDED}
    await _move(session, inbound_id, values | {"finished_at": func.clock_timestamp()})


async def _move(session: AsyncSession, inbound_id: UUID, values: Mapping[str, object]) -> None:
    moved = await session.scalar(
        update(InboundEmail)
        .where(InboundEmail.id == inbound_id, InboundEmail.state.in_(POSTABLE), InboundEmail.original.is_not(None))
        .values(values)
        .returning(InboundEmail.id)
        .execution_options(synchronize_session=False)
    )
    if moved is not None:
        await append_events(session, LoggedType.INBOUND_UPDATED, [moved])
        return
    state = await session.scalar(select(InboundEmail.state).where(InboundEmail.id == inbound_id))
    if state is None:
        raise NotFound("There is no such email.")
    if state in POSTABLE:
        raise InboundNotWaiting("The original of this email is not kept any more.")
    raise InboundNotWaiting(f"This email is {state}. Only held and ignored emails can be posted or discarded.")
