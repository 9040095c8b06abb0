"""Upsert the store's users and orders, any number of them in a fixed number of statements.

Every batch locks rows in the same order: users before orders, each by id.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import OrderOfAnotherUser
from services.conversations.event_log.append import append_events
from services.conversations.identity.provisioning import PROFILE
from services.conversations.identity.sessions import end_sessions_of_other_side
from services.conversations.models import Conversation, Order, User
from services.conversations.rules import CustomValue, Side, former_order_id
from shared.database.orm import any_of, bulk_insert
from shared.events import EventType, UserChanged
from shared.people import Person

_USER = (
    *(User.id, User.role, User.synced_role, User.version, User.updated_at, User.deleted_at),
    *(getattr(User, name) for name in PROFILE),
    User.custom,
)
_ORDER = (Order.id, Order.user_id, Order.updated_at, Order.deleted_at)


@dataclass(frozen=True, slots=True)
class UserUpsert:
    """A user as sent by the store. Without a `role`, the stored role stays; new users are customers."""

    id: str
    profile: Mapping[str, Any]
    role: Side | None = None
    updated_at: datetime | None = None
    custom: Mapping[str, CustomValue] | None = None


@dataclass(frozen=True, slots=True)
class OrderUpsert:
    """An order as sent by the store, with all fields."""

    id: str
    fields: Mapping[str, Any]

    @property
    def user_id(self) -> str:
        """The id of the order's customer."""
        return str(self.fields["user_id"])


Upsert = UserUpsert | OrderUpsert


async def upsert_batch(session: AsyncSession, upserts: Sequence[Upsert]) -> list[bool | OrderOfAnotherUser]:
    """Upsert users and orders as if one by one; return for each whether it is new, or why it is rejected.

    An `updated_at` older than the stored one changes nothing. If the role of a user changes, their browser sessions for
    the other side end. An order's user may be known by id only, and cannot change unless the order was deleted. A
    rejected order writes nothing and does not affect the others. A merged id stands for the person to whom it belongs.
    """
    inserted = await _insert_unknown(session, upserts)
    upserts = await _of_persons(session, upserts)
    orders = _Orders([upsert for upsert in upserts if isinstance(upsert, OrderUpsert)])
    users = _Users([upsert for upsert in upserts if isinstance(upsert, UserUpsert)], orders.owners, inserted)
    await users.lock(session)
    await orders.lock(session)
    results = [
        users.apply(upsert) if isinstance(upsert, UserUpsert) else orders.apply(upsert, users.known)
        for upsert in upserts
    ]
    await users.save(session)
    await orders.save(session)
    return results


async def put_user(session: AsyncSession, user: UserUpsert) -> bool:
    """Upsert a user as `upsert_batch` does; return whether it is new."""
    [created] = await upsert_batch(session, [user])
    return bool(created)


async def put_order(session: AsyncSession, order: OrderUpsert) -> bool:
    """Upsert an order as `upsert_batch` does; return whether it is new. Raises `OrderOfAnotherUser`."""
    [result] = await upsert_batch(session, [order])
    if isinstance(result, OrderOfAnotherUser):
        raise result
    return result


async def _insert_unknown(session: AsyncSession, upserts: Sequence[Upsert]) -> set[str]:
    """Insert unknown users, including the owners of orders, by id only; return their ids."""
    rows = [{"id": user_id, "role": Side.CUSTOMER} for user_id in sorted(set(map(_user_id, upserts)))]
    if not rows:
        return set()
    new = bulk_insert(User, rows).on_conflict_do_nothing().returning(User.id)
    return set(await session.scalars(new))


async def _of_persons(session: AsyncSession, upserts: Sequence[Upsert]) -> list[Upsert]:
    """Return the upserts with merged ids replaced by the persons', and exclude mergers until the commit.

    A merger locks users before orders, as this does.
    """
    values = {"ids": sorted(set(map(_user_id, upserts)))}
    persons = {row.id: row.merged_into for row in await session.execute(_PERSONS, values) if row.merged_into}
    return [_of_person(upsert, person) if (person := persons.get(_user_id(upsert))) else upsert for upsert in upserts]


def _user_id(upsert: Upsert) -> str:
    return upsert.id if isinstance(upsert, UserUpsert) else upsert.user_id


def _of_person(upsert: Upsert, person: str) -> Upsert:
    if isinstance(upsert, UserUpsert):
        return replace(upsert, id=person)
    return replace(upsert, fields={**upsert.fields, "user_id": person})


class _Users:
    """The users of a batch: locked, then changed in memory, then saved. `known` are the ids of existing users."""

    def __init__(self, upserts: Sequence[UserUpsert], owners: Collection[str], inserted: set[str]) -> None:
        self._ids = {upsert.id for upsert in upserts}
        self._inserted = inserted
        self.known: set[str] = {*self._ids, *owners} - inserted
        self._rows: _Rows = {}
        self._changed: set[str] = set()
        self._new_sides: list[tuple[str, Side]] = []
        self._events: list[tuple[str, None, UserChanged]] = []

    async def lock(self, session: AsyncSession) -> None:
        """Lock the users to upsert."""
        if self._ids:
            query = select(*_USER).where(any_of(User.id, self._ids)).order_by(User.id)
            # Allows new references to the users, so that posts do not wait for an import.
            self._rows = _by_id(await session.execute(query.with_for_update(key_share=True)))

    def apply(self, upsert: UserUpsert) -> bool:
        """Apply an upsert in memory; return whether the user is new or restored after a deletion."""
        user = self._rows[upsert.id]
        if upsert.id not in self.known:
            user["role"] = upsert.role or Side.CUSTOMER
        elif _is_stale(upsert.updated_at, user["updated_at"]):
            return False
        created = upsert.id not in self.known or user["deleted_at"] is not None
        self.known.add(upsert.id)
        self._changed.add(upsert.id)
        values = {name: upsert.profile.get(name) or None for name in PROFILE}
        values |= {"role": upsert.role or user["role"], "deleted_at": None}
        values |= {"synced_role": upsert.role or user["synced_role"]}
        if upsert.role is not None and {upsert.role} != {user["role"], user["synced_role"]}:
            self._new_sides.append((upsert.id, upsert.role))
        differs = any(user[name] != value for name, value in values.items())
        user |= values | {"updated_at": upsert.updated_at or user["updated_at"], "version": user["version"] + differs}
        user["custom"] = upsert.custom or None  # not in the event: nobody else may know it
        if differs:
            profile = {name: user[name] for name in PROFILE}
            person = Person(id=upsert.id, version=user["version"], role=user["synced_role"], **profile)
            self._events.append((upsert.id, None, UserChanged(person=person)))
        return created

    async def save(self, session: AsyncSession) -> None:
        """Save the changed users and log their changes."""
        if self._new_sides:
            await end_sessions_of_other_side(session, self._new_sides)
        if self._changed:
            await _overwrite(session, User, [self._rows[user_id] for user_id in sorted(self._changed)])
        if self._events:
            await append_events(session, EventType.USER_UPDATED, self._events)
        if unused := self._inserted - self.known:  # owners of rejected orders only
            await session.execute(delete(User).where(any_of(User.id, unused)))


class _Orders:
    """The orders of a batch: new ones inserted, all locked, then changed in memory, then saved."""

    def __init__(self, upserts: Sequence[OrderUpsert]) -> None:
        self.owners = {upsert.user_id for upsert in upserts}
        self._first = {upsert.id: upsert for upsert in reversed(upserts)}
        self._inserted: set[str] = set()
        self._rows: _Rows = {}
        self._changed: set[str] = set()
        self._former_owners: dict[str, str] = {}  # of deleted orders that are sent again for another user

    async def lock(self, session: AsyncSession) -> None:
        """Insert unknown orders as first sent in the batch; lock all orders."""
        if not self._first:
            return
        rows = [{"id": order_id, **self._first[order_id].fields} for order_id in sorted(self._first)]
        new = bulk_insert(Order, rows, synced_at=func.clock_timestamp()).on_conflict_do_nothing().returning(Order.id)
        self._inserted = set(await session.scalars(new))
        query = select(*_ORDER).where(any_of(Order.id, self._first)).order_by(Order.id).with_for_update()
        self._rows = _by_id(await session.execute(query))

    def apply(self, upsert: OrderUpsert, known_users: set[str]) -> bool | OrderOfAnotherUser:
        """Apply an upsert in memory and add its user to `known_users`.

        Returns whether the order is new or restored after a deletion.
        """
        order = self._rows[upsert.id]
        if order["user_id"] != upsert.user_id:
            if order["deleted_at"] is None:
                return OrderOfAnotherUser("The order belongs to another user. Delete it first.")
            self._former_owners.setdefault(upsert.id, order["user_id"])
        known_users.add(upsert.user_id)
        if upsert.id in self._inserted:
            self._inserted.remove(upsert.id)
            return True
        if _is_stale(upsert.fields["updated_at"], order["updated_at"]):
            return False
        restored = order["deleted_at"] is not None
        newest = upsert.fields["updated_at"] or order["updated_at"]
        order |= {**upsert.fields, "updated_at": newest, "deleted_at": None}
        self._changed.add(upsert.id)
        return restored

    async def save(self, session: AsyncSession) -> None:
        """Save the orders that existed before or were sent more than once."""
        for order_id, former_owner in sorted(self._former_owners.items()):
            if order_id in self._changed:
                await _hand_over(session, order_id, former_owner, self._rows[order_id]["user_id"])
        if self._changed:
            await _overwrite(session, Order, [self._rows[order_id] for order_id in sorted(self._changed)])


_Rows = dict[str, dict[str, Any]]

_PERSONS = text("""
    select id, merged_into from users where id = any(cast(:ids as text[])) order by id for key share
""")


async def _hand_over(session: AsyncSession, order_id: str, former_owner: str, owner: str) -> None:
    """Keep the last state of a deleted order for its conversations, before the order is saved for another user.

    That state moves to a row with the id `former_order_id`. If the new owner has such a row of this order from before,
    their conversations return to the order.
    """
    columns = [column.name for column in Order.__table__.columns if column.name != "id"]
    last_state = select(literal(former_order_id(order_id, former_owner)), *(getattr(Order, name) for name in columns))
    copy = insert(Order).from_select(["id", *columns], last_state.where(Order.id == order_id))
    values = {name: copy.excluded[name] for name in columns}
    await session.execute(copy.on_conflict_do_update(index_elements=[Order.id], set_=values))
    for old_id, new_id in (
        (order_id, former_order_id(order_id, former_owner)),
        (former_order_id(order_id, owner), order_id),
    ):
        await session.execute(update(Conversation).where(Conversation.order_id == old_id).values(order_id=new_id))
    await session.execute(delete(Order).where(Order.id == former_order_id(order_id, owner)))


def _by_id(rows: Iterable[Any]) -> _Rows:
    return {row.id: row._asdict() for row in rows}


async def _overwrite(session: AsyncSession, model: type[User | Order], rows: Sequence[Mapping[str, Any]]) -> None:
    """Save rows that exist and are locked, and set `synced_at`."""
    upsert = bulk_insert(model, rows, synced_at=func.clock_timestamp())
    values = {name: upsert.excluded[name] for name in (*rows[0], "synced_at") if name != "id"}
    await session.execute(upsert.on_conflict_do_update(index_elements=[model.id], set_=values))


def _is_stale(sent: datetime | None, stored: datetime | None) -> bool:
    return sent is not None and stored is not None and sent < stored
