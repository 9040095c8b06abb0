"""Every read of the conversations service. Each is scoped in its SQL: what is not the caller's does not exist."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from services.conversations.models import Conversation, Message, Order, User
from services.conversations.rules import Side, Status
from shared.paging import decode_cursor, encode_cursor, moment, number, store_id
from shared.problems import NotFound


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation with the people and things beside it."""

    conversation: Conversation
    user: User
    order: Order | None


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list of conversations is narrowed to; None and empty mean all."""

    status: tuple[Status, ...] = ()
    unread: bool | None = None
    user_id: str | None = None
    order_id: str | None = None
    order_number: str | None = None


_NEVER: ColumnElement[datetime] = literal_column("'infinity'::timestamptz")  # as the index on the waiting time has it
_THREADS = (
    select(Conversation, User, Order)
    .join(User, User.id == Conversation.user_id)
    .outerjoin(Order, Order.id == Conversation.order_id)
    .execution_options(populate_existing=True)  # posting goes past the session, so what it holds may be old
)


async def get_thread(session: AsyncSession, conversation_id: UUID, *, scope: str | None = None) -> Thread:
    """Return a conversation; with `scope`, only that customer's. Raises `NotFound`."""
    query = _THREADS.where(Conversation.id == conversation_id)
    if scope is not None:
        query = query.where(Conversation.user_id == scope)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise NotFound("There is no such conversation.")
    return Thread(*row)


async def get_thread_and_others(
    session: AsyncSession, conversation_id: UUID, others: int
) -> tuple[Thread, list[Thread]]:
    """Return a conversation and its customer's others, the newest ones, last activity first. Raises `NotFound`."""
    customer = select(Conversation.user_id).where(Conversation.id == conversation_id).scalar_subquery()
    theirs = (
        select(Conversation.id)
        .where(Conversation.user_id == customer, Conversation.id != conversation_id)
        .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
        .limit(others)
    )
    threads = await list_threads(session, union_all(select(literal(conversation_id)), theirs))
    wanted = [thread for thread in threads if thread.conversation.id == conversation_id]
    if not wanted:
        raise NotFound("There is no such conversation.")
    return wanted[0], [thread for thread in threads if thread is not wanted[0]]


async def list_threads(session: AsyncSession, ids: Iterable[UUID] | CompoundSelect[UUID]) -> list[Thread]:
    """Return those of some conversations that are there, last activity first."""
    query = _THREADS.where(Conversation.id.in_(ids))
    query = query.order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
    return [Thread(*row) for row in (await session.execute(query)).all()]


async def list_by_activity(
    session: AsyncSession, filters: Filters, side: Side, cursor: str | None, limit: int
) -> tuple[list[Thread], str | None]:
    """Return a page of conversations, last activity first, and the cursor of the next."""
    query = _filtered(filters, side)
    key = tuple_(Conversation.last_activity_at, Conversation.id)
    bound = ("activity", side, filters)
    if cursor is not None:
        query = query.where(key < tuple(decode_cursor(cursor, _names(bound), moment, UUID)))
    query = query.order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
    threads, more = await _page(session, query, limit)
    if not more:
        return threads, None
    last = threads[-1].conversation
    return threads, encode_cursor(_names(bound), [last.last_activity_at.isoformat(), str(last.id)])


async def list_by_waiting(
    session: AsyncSession, filters: Filters, cursor: str | None, limit: int
) -> tuple[list[Thread], str | None]:
    """Return a page of conversations, those that wait longest first, those that do not wait last.

    A conversation that changed since the first page is left to a new first page: an answer moves it backwards, and it
    would come twice.
    """
    query = _filtered(filters, Side.ADMIN)
    since = func.coalesce(Conversation.waiting_since, _NEVER)
    bound = ("waiting", Side.ADMIN, filters)
    started = None
    if cursor is not None:
        started, waiting_since, identity = decode_cursor(cursor, _names(bound), moment, _moment_or_never, UUID)
        query = query.where(
            Conversation.changed_at <= started,
            tuple_(since, Conversation.id) > (_NEVER if waiting_since is None else waiting_since, identity),
        )
    query = query.order_by(since, Conversation.id).limit(limit + 1)
    # The transaction's beginning: before the statement sees anything, so what changes behind its back is newer.
    rows = (await session.execute(query.add_columns(func.now()))).all()
    threads = [Thread(*row[:3]) for row in rows[:limit]]
    if len(rows) <= limit:
        return threads, None
    last = threads[-1].conversation
    waiting = last.waiting_since.isoformat() if last.waiting_since else ""
    return threads, encode_cursor(_names(bound), [(started or rows[0][3]).isoformat(), waiting, str(last.id)])


async def list_messages(
    session: AsyncSession,
    conversation_id: UUID,
    *,
    scope: str | None,
    newest_first: bool,
    after: int | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[tuple[Message, User]], str | None]:
    """Return a page of a conversation's messages with their senders, and the cursor of the next. Raises `NotFound`.

    The conversation is looked at in the same statement: one that is not the caller's has no messages to find.
    """
    bound = [str(conversation_id), newest_first, after]
    page = select(Message).where(Message.conversation_id == Conversation.id).limit(limit + 1)
    page = page.order_by(Message.number.desc() if newest_first else Message.number)
    if after is not None:
        page = page.where(Message.number > after)
    if cursor is not None:
        (last_number,) = decode_cursor(cursor, bound, number)
        page = page.where(Message.number < last_number if newest_first else Message.number > last_number)
    message = aliased(Message, page.lateral())
    query = (
        select(message, User)
        .select_from(Conversation)
        .outerjoin(message, true())
        .outerjoin(User, User.id == message.sender_id)
        .where(Conversation.id == conversation_id, Conversation.user_id == scope if scope is not None else true())
        .order_by(message.number.desc() if newest_first else message.number)
    )
    found: list[Any] = list((await session.execute(query)).all())
    if not found:
        raise NotFound("There is no such conversation.")
    rows = [row for row in found if row[0] is not None]  # without any, the conversation's row stands alone
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(bound, [rows[limit - 1][0].number])


async def list_orders(
    session: AsyncSession, user_id: str, cursor: str | None, limit: int
) -> tuple[Sequence[Order], str | None]:
    """Return a page of a customer's orders, newest first, without those that the store deleted."""
    query = (
        select(Order)
        .where(Order.user_id == user_id, Order.deleted_at.is_(None))
        .order_by(Order.placed_at.desc(), Order.id.desc())
    )
    if cursor is not None:
        placed_at, identity = decode_cursor(cursor, user_id, moment, store_id)
        query = query.where(tuple_(Order.placed_at, Order.id) < (placed_at, identity))
    orders = (await session.scalars(query.limit(limit + 1))).all()
    if len(orders) <= limit:
        return orders, None
    last = orders[limit - 1]
    return orders[:limit], encode_cursor(user_id, [last.placed_at.isoformat(), last.id])


async def find_customer(session: AsyncSession, user_id: str) -> User | None:
    """Return a customer by id, if there is one who was not deleted."""
    return await session.scalar(select(User).where(User.id == user_id, *customers_like(None)))


async def list_customers(
    session: AsyncSession, q: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[User], str | None]:
    """Return a page of customers by id; `q` is a part of the name, the address or the id."""
    query = select(User).where(*customers_like(q)).order_by(User.id)
    if cursor is not None:
        (identity,) = decode_cursor(cursor, q, store_id)
        query = query.where(User.id > identity)
    users = (await session.scalars(query.limit(limit + 1))).all()
    if len(users) <= limit:
        return users, None
    return users[:limit], encode_cursor(q, [users[limit - 1].id])


def _filtered(filters: Filters, side: Side) -> Select[Conversation, User, Order]:
    query = _THREADS
    flag = Conversation.is_read_by_admin if side is Side.ADMIN else Conversation.is_read_by_user
    conditions: list[ColumnElement[bool]] = []
    if filters.status:
        conditions.append(Conversation.status.in_(filters.status))
    if filters.unread is not None:
        conditions.append(flag.is_(not filters.unread))
    if filters.user_id is not None:
        conditions.append(Conversation.user_id == filters.user_id)
    if filters.order_id is not None:
        conditions.append(Conversation.order_id == filters.order_id)
    if filters.order_number is not None:
        conditions.append(Order.number == filters.order_number)
    return query.where(*conditions)


async def _page(
    session: AsyncSession, query: Select[Conversation, User, Order], limit: int
) -> tuple[list[Thread], bool]:
    """Fetch one more row than asked for: it tells whether there is a next page."""
    rows = (await session.execute(query.limit(limit + 1))).all()
    return [Thread(*row) for row in rows[:limit]], len(rows) > limit


def customers_like(q: str | None) -> list[ColumnElement[bool]]:
    """Return what makes a user a customer, one with `q` in the name, the address or the id."""
    like = or_(*(column.icontains(q, autoescape=True) for column in (User.name, User.email, User.id))) if q else true()
    return [User.role == Side.CUSTOMER, User.deleted_at.is_(None), like]


def _names(bound: tuple[str, Side, Filters]) -> list[Any]:
    order, side, filters = bound
    return [order, side, *astuple(filters)]


def _moment_or_never(part: str) -> datetime | None:
    return moment(part) if part else None
