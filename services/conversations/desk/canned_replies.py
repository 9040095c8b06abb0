"""Canned replies: texts with variables, which are filled in for a conversation in one pass of plain substitution."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.errors import ShortcutTaken
from services.conversations.messaging.queries import load_conversation
from services.conversations.models import CannedReply, User
from services.conversations.rules import AuditAction
from shared.database.reader import Reader
from shared.database.transactions import driver_connection
from shared.paging import decode_cursor, encode_cursor, plain_text
from shared.problems import NotFound

VARIABLES = ("customer.name", "customer.first_name", "order.number", "order.status", "admin.name")
_VARIABLE = re.compile(r"\{\{ ?([a-z_.]{1,40}) ?\}\}")


class CannedReplyRow(NamedTuple):
    """A canned reply."""

    id: UUID
    shortcut: str
    title: str
    body: str
    locale: str | None


@dataclass(frozen=True, slots=True)
class CannedReplyFields:
    """The fields of a canned reply that admins write."""

    shortcut: str
    title: str
    body: str
    locale: str | None


def unknown_variables(body: str) -> list[str]:
    """Return what stands in double braces in a text and is not a variable, in order."""
    return [name for name in dict.fromkeys(_VARIABLE.findall(body)) if name not in VARIABLES]


def fill(body: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace the variables of a text by their values; return it, and the variables that have none, in order.

    A value that contains braces is not replaced again.
    """
    empty = [name for name in dict.fromkeys(_VARIABLE.findall(body)) if not values.get(name)]
    return _VARIABLE.sub(lambda match: values.get(match[1], ""), body), empty


async def list_canned_replies(
    reader: Reader, cursor: str | None, limit: int
) -> tuple[list[CannedReplyRow], str | None]:
    """Return a page of canned replies by shortcut, and the cursor of the next."""
    after = decode_cursor(cursor, "canned", plain_text, plain_text) if cursor is not None else ("", "")
    rows = await reader.fetch(_PAGE, *after, limit + 1)
    replies = [CannedReplyRow._make(row[:-1]) for row in rows[:limit]]
    if len(rows) <= limit:
        return replies, None
    return replies, encode_cursor("canned", [rows[limit - 1][-1], replies[-1].locale or ""])


async def create_canned_reply(
    session: AsyncSession, fields: CannedReplyFields, actor_id: str, reply_id: UUID | None = None
) -> CannedReplyRow:
    """Create a canned reply. Raises `ShortcutTaken`."""
    reply = CannedReply(id=reply_id, **_values(fields)) if reply_id else CannedReply(**_values(fields))
    session.add(reply)
    row = await _flush(session, reply)
    await record(session, Act(AuditAction.CANNED_REPLY_CREATED, actor_id, target_id=str(row.id)))
    return row


async def is_saved(session: AsyncSession, fields: CannedReplyFields) -> bool:
    """Return whether there is a canned reply with these fields, as after the first of two submits of a form."""
    same = [getattr(CannedReply, name).is_not_distinct_from(value) for name, value in _values(fields).items()]
    return await session.scalar(select(CannedReply.id).where(*same)) is not None


async def replace_canned_reply(
    session: AsyncSession, reply_id: UUID, fields: CannedReplyFields, actor_id: str
) -> CannedReplyRow:
    """Replace all fields of a canned reply. Raises `NotFound` or `ShortcutTaken`."""
    reply = await _find(session, reply_id)
    for name, value in _values(fields).items():
        setattr(reply, name, value)
    row = await _flush(session, reply)
    await record(session, Act(AuditAction.CANNED_REPLY_CHANGED, actor_id, target_id=str(reply_id)))
    return row


async def read_canned_reply(session: AsyncSession, reply_id: UUID) -> CannedReplyRow:
    """Return a canned reply. Raises `NotFound`."""
    return _row(await _find(session, reply_id))


async def delete_canned_reply(session: AsyncSession, reply_id: UUID, actor_id: str) -> None:
    """Delete a canned reply. Raises `NotFound`."""
    deleted = delete(CannedReply).where(CannedReply.id == reply_id).returning(CannedReply.id)
    if await session.scalar(deleted) is None:
        raise NotFound("There is no such canned reply.")
    await record(session, Act(AuditAction.CANNED_REPLY_DELETED, actor_id, target_id=str(reply_id)))


async def fill_for(
    session: AsyncSession, reply_id: UUID, conversation_id: UUID, admin_id: str
) -> tuple[str, Sequence[str]]:
    """Return a canned reply's text for a conversation and the variables without a value. Raises `NotFound`."""
    reply = await _find(session, reply_id)
    detail = await load_conversation(await driver_connection(session), conversation_id)
    admin = await session.get(User, admin_id)
    customer, order = detail.user.name or "", detail.order
    values = {
        "customer.name": customer,
        "customer.first_name": next(iter(customer.split()), ""),
        "order.number": order.number if order else "",
        "order.status": order.status if order else "",
        "admin.name": (admin.name if admin else None) or "",
    }
    return fill(reply.body, values)


async def _find(session: AsyncSession, reply_id: UUID) -> CannedReply:
    reply = await session.get(CannedReply, reply_id, populate_existing=True, with_for_update=True)
    if reply is None:
        raise NotFound("There is no such canned reply.")
    return reply


async def _flush(session: AsyncSession, reply: CannedReply) -> CannedReplyRow:
    shortcut = reply.shortcut
    try:
        await session.flush()
    except IntegrityError:
        raise ShortcutTaken(shortcut) from None
    return _row(reply)


def _row(reply: CannedReply) -> CannedReplyRow:
    return CannedReplyRow(reply.id, reply.shortcut, reply.title, reply.body, reply.locale)


def _values(fields: CannedReplyFields) -> dict[str, str | None]:
    return {"shortcut": fields.shortcut, "title": fields.title, "body": fields.body, "locale": fields.locale}


_PAGE = """
    select id, shortcut, title, body, locale, lower(shortcut) from canned_replies
    where (lower(shortcut), coalesce(locale, '')) > ($1, $2)
    order by lower(shortcut), coalesce(locale, '') limit $3
"""
