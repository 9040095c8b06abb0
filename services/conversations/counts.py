"""How many conversations there are of a kind. Every count stops at `COUNT_LIMIT`: nobody waits for a number."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, func, literal, select, true, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from services.conversations.models import Conversation, User
from services.conversations.queries import customers_like
from services.conversations.rules import COUNT_LIMIT, WAITING, Status


@dataclass(frozen=True, slots=True)
class Tally:
    """How many conversations there are by status, and unread by the admins; each count stops at `COUNT_LIMIT`."""

    by_status: dict[Status, int]
    unread: int

    @property
    def waiting(self) -> int:
        """Return how many wait for an admin."""
        return min(COUNT_LIMIT, sum(self.by_status[status] for status in WAITING))


async def count_unread(session: AsyncSession, *, customer: str | None = None) -> int:
    """Count a customer's unread conversations, or those that no admin has read, up to `COUNT_LIMIT`."""
    if customer is not None:
        mine = Conversation.user_id == customer
        return await session.scalar(select(_count(mine, Conversation.is_read_by_user.is_(False)))) or 0
    return await session.scalar(select(_count(_UNREAD))) or 0


async def count_unread_of(session: AsyncSession, customers: Collection[str]) -> dict[str, int]:
    """Count the unread conversations of several customers, each up to `COUNT_LIMIT`."""
    if not customers:
        return {}
    counts = (
        select(Conversation.user_id, func.least(func.count(), COUNT_LIMIT))
        .where(Conversation.user_id.in_(customers), Conversation.is_read_by_user.is_(False))
        .group_by(Conversation.user_id)
    )
    return dict.fromkeys(customers, 0) | {row[0]: row[1] for row in await session.execute(counts)}


async def tally(session: AsyncSession) -> Tally:
    """Count all conversations by status, and those that no admin has read."""
    return _tally((await session.execute(select(*_TALLY))).one())


async def tally_and_find_customers(session: AsyncSession, text: str, limit: int) -> tuple[Tally, list[User]]:
    """Count as `tally`, and return the customer of the id `text` alone, else some whom `list_customers` would find.

    A deleted customer is found by id only.
    """
    exactly = select(User.id).where(User.id == text)
    like = select(User.id).where(~exactly.exists(), *customers_like(text)).order_by(User.id).limit(limit)
    found = aliased(User, select(User).where(User.id.in_(union_all(exactly, like))).subquery())
    one = select(literal(1)).subquery()
    query = select(*_TALLY, found).select_from(one).outerjoin(found, true()).order_by(found.id)
    rows: Sequence[Any] = (await session.execute(query)).all()
    return _tally(rows[0]), [row[-1] for row in rows if row[-1] is not None]


def _count(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(literal(1)).select_from(Conversation).where(*conditions).limit(COUNT_LIMIT).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


_UNREAD = Conversation.is_read_by_admin.is_(False)
_TALLY = [*(_count(Conversation.status == status) for status in Status), _count(_UNREAD)]


def _tally(row: Row[*tuple[Any, ...]]) -> Tally:
    *by_status, unread = row[: len(_TALLY)]
    return Tally(dict(zip(Status, by_status, strict=True)), unread)
