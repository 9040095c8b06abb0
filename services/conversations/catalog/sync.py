"""What the store sends of its users and orders: one, or many at once, with as many statements as for one.

Every batch takes its locks in the same order: users before orders, each by id.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import OrderOfAnotherUser
from services.conversations.event_log.append import append_events
from services.conversations.identity.provisioning import PROFILE
from services.conversations.identity.sessions import end_other_sides
from services.conversations.models import Conversation, Order, User
from services.conversations.rules import Side, former_order_id
from shared.events import EventType, UserChanged
from shared.people import Person
from shared.tables import any_of, bulk_insert

_USER = (
    *(User.id, User.role, User.synced_role, User.version, User.updated_at, User.deleted_at),
    *(getattr(User, name) for name in PROFILE),
)
_ORDER = (Order.id, Order.user_id, Order.updated_at, Order.deleted_at)


@dataclass(frozen=True, slots=True)
class UserUpsert:
    """A user as the store has them; without a `role` it stays what it was, at first that of a customer."""

    id: str
    profile: Mapping[str, Any]
    role: Side | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OrderUpsert:
    """An order as the store has it, with all of its fields."""

    id: str
    fields: Mapping[str, Any]

    @property
    def user_id(self) -> str:
        """Whose order it is."""
        return str(self.fields["user_id"])


Upsert = UserUpsert | OrderUpsert


async def upsert_batch(session: AsyncSession, sent: Sequence[Upsert]) -> list[bool | OrderOfAnotherUser]:
    """Take over users and orders as if one came after the other; tell of each whether it is new, or why it is refused.

    An `updated_at` older than the stored one changes nothing. A user with another role than before loses the browsers'
    sessions for any other side. An order's user may be known by id only, and cannot change unless the order was
    deleted: an order that is refused for that leaves no trace, and hinders no other.
    """
    users = _Users([one for one in sent if isinstance(one, UserUpsert)])
    orders = _Orders([one for one in sent if isinstance(one, OrderUpsert)])
    await users.lock(session, orders.owners)
    await orders.lock(session)
    results = [users.take(one) if isinstance(one, UserUpsert) else orders.take(one, users.known) for one in sent]
    await users.save(session)
    await orders.save(session)
    return results


async def put_user(session: AsyncSession, user: UserUpsert) -> bool:
    """Take one user over, as `upsert_batch` does; True when new."""
    [created] = await upsert_batch(session, [user])
    return bool(created)


async def put_order(session: AsyncSession, order: OrderUpsert) -> bool:
    """Take one order over, as `upsert_batch` does; True when new. Raises `OrderOfAnotherUser`."""
    [created] = await upsert_batch(session, [order])
    if isinstance(created, OrderOfAnotherUser):
        raise created
    return created


class _Users:
    """The users of a batch: locked, then changed in memory, then saved. `known` are those who are there so far."""

    def __init__(self, sent: Sequence[UserUpsert]) -> None:
        self.known: set[str] = set()
        self._ids = {one.id for one in sent}
        self._made: set[str] = set()
        self._rows: _Rows = {}
        self._taken: set[str] = set()
        self._sides: list[tuple[str, Side]] = []
        self._changes: list[tuple[str, UserChanged]] = []

    async def lock(self, session: AsyncSession, owners: Collection[str]) -> None:
        """Make sure that all are known at least by id, the owners of orders as well; lock those who are sent."""
        named = {*self._ids, *owners}
        rows = [{"id": key, "role": Side.CUSTOMER} for key in sorted(named)]
        if rows:
            made = bulk_insert(User, rows).on_conflict_do_nothing().returning(User.id)
            self._made = set(await session.scalars(made))
        self.known = named - self._made
        if self._ids:
            theirs = select(*_USER).where(any_of(User.id, self._ids)).order_by(User.id)
            # Lets others refer to them meanwhile: a post need not wait for an import.
            self._rows = _by_id(await session.execute(theirs.with_for_update(key_share=True)))

    def take(self, sent: UserUpsert) -> bool:
        """Let a user be as sent; True when new, or here again after a deletion."""
        user = self._rows[sent.id]
        if sent.id not in self.known:
            user["role"] = sent.role or Side.CUSTOMER
        elif _is_stale(sent.updated_at, user["updated_at"]):
            return False
        created = sent.id not in self.known or user["deleted_at"] is not None
        self.known.add(sent.id)
        self._taken.add(sent.id)
        wanted = {name: sent.profile.get(name) or None for name in PROFILE}
        wanted |= {"role": sent.role or user["role"], "deleted_at": None}
        wanted |= {"synced_role": sent.role or user["synced_role"]}
        if sent.role is not None and {sent.role} != {user["role"], user["synced_role"]}:
            self._sides.append((sent.id, sent.role))
        changed = any(user[name] != value for name, value in wanted.items())
        user |= wanted | {"updated_at": sent.updated_at or user["updated_at"], "version": user["version"] + changed}
        if changed:
            profile = {name: user[name] for name in PROFILE}
            person = Person(id=sent.id, version=user["version"], role=user["synced_role"], **profile)
            self._changes.append((sent.id, UserChanged(person=person)))
        return created

    async def save(self, session: AsyncSession) -> None:
        """Save what became of them, and tell the log of each change."""
        if self._sides:
            await end_other_sides(session, self._sides)
        if self._taken:
            await _overwrite(session, User, [self._rows[key] for key in sorted(self._taken)])
        if self._changes:
            await append_events(session, EventType.USER_UPDATED, self._changes)
        if forgotten := self._made - self.known:  # whom only an order that was refused has named
            await session.execute(delete(User).where(any_of(User.id, forgotten)))


class _Orders:
    """The orders of a batch: new ones saved, all locked, then changed in memory, then saved."""

    def __init__(self, sent: Sequence[OrderUpsert]) -> None:
        self.owners = {one.user_id for one in sent}
        self._first = {one.id: one for one in reversed(sent)}
        self._new: set[str] = set()
        self._rows: _Rows = {}
        self._taken: set[str] = set()
        self._handed_over: dict[str, str] = {}  # deleted ones that come again for another user, with their former one

    async def lock(self, session: AsyncSession) -> None:
        """Save those that were never here, as they are first sent; lock all."""
        if not self._first:
            return
        rows = [{"id": key, **self._first[key].fields} for key in sorted(self._first)]
        new = bulk_insert(Order, rows, synced_at=func.clock_timestamp()).on_conflict_do_nothing().returning(Order.id)
        self._new = set(await session.scalars(new))
        found = select(*_ORDER).where(any_of(Order.id, self._first)).order_by(Order.id).with_for_update()
        self._rows = _by_id(await session.execute(found))

    def take(self, sent: OrderUpsert, known: set[str]) -> bool | OrderOfAnotherUser:
        """Let an order be as sent, and its user be known; True when new, or here again after a deletion."""
        order = self._rows[sent.id]
        if order["user_id"] != sent.user_id:
            if order["deleted_at"] is None:
                return OrderOfAnotherUser("The order belongs to another user. Delete it first.")
            self._handed_over.setdefault(sent.id, order["user_id"])
        known.add(sent.user_id)
        if sent.id in self._new:
            self._new.remove(sent.id)
            return True
        if _is_stale(sent.fields["updated_at"], order["updated_at"]):
            return False
        again = order["deleted_at"] is not None
        newest = sent.fields["updated_at"] or order["updated_at"]
        order |= {**sent.fields, "updated_at": newest, "deleted_at": None}
        self._taken.add(sent.id)
        return again

    async def save(self, session: AsyncSession) -> None:
        """Save what became of those that were here before, or came more than once."""
        for key, former in sorted(self._handed_over.items()):
            if key in self._taken:
                await _hand_over(session, key, former, self._rows[key]["user_id"])
        if self._taken:
            await _overwrite(session, Order, [self._rows[key] for key in sorted(self._taken)])


_Rows = dict[str, dict[str, Any]]


async def _hand_over(session: AsyncSession, order_id: str, former: str, owner: str) -> None:
    """Let conversations about a deleted order keep its last state, before it comes again for another user.

    That state becomes a row of its own, which `former_order_id` names. One that the new owner had left behind in this
    way is theirs again.
    """
    columns = [column.name for column in Order.__table__.columns if column.name != "id"]
    last = select(literal(former_order_id(order_id, former)), *(getattr(Order, name) for name in columns))
    keep = insert(Order).from_select(["id", *columns], last.where(Order.id == order_id))
    kept = {name: keep.excluded[name] for name in columns}
    await session.execute(keep.on_conflict_do_update(index_elements=[Order.id], set_=kept))
    for there, here in (
        (order_id, former_order_id(order_id, former)),
        (former_order_id(order_id, owner), order_id),
    ):
        await session.execute(update(Conversation).where(Conversation.order_id == there).values(order_id=here))
    await session.execute(delete(Order).where(Order.id == former_order_id(order_id, owner)))


def _by_id(found: Iterable[Any]) -> _Rows:
    return {row.id: row._asdict() for row in found}


async def _overwrite(session: AsyncSession, model: type[User | Order], rows: Sequence[Mapping[str, Any]]) -> None:
    """Save rows that are there and locked, as what the store has sent now."""
    upsert = bulk_insert(model, rows, synced_at=func.clock_timestamp())
    values = {name: upsert.excluded[name] for name in (*rows[0], "synced_at") if name != "id"}
    await session.execute(upsert.on_conflict_do_update(index_elements=[model.id], set_=values))


def _is_stale(given: datetime | None, stored: datetime | None) -> bool:
    return given is not None and stored is not None and given < stored
