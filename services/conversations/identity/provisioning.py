"""The store's users and orders: what a token adds, and what a deletion erases."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import append_event
from services.conversations.models import FeedHead, User
from services.conversations.records import CALLER_COLUMNS, CALLER_JSON, CallerRecord
from services.conversations.rules import Side
from shared.auth import Principal, check_synced_role
from shared.database import Driver
from shared.events import EventType, UserChanged
from shared.people import Person
from shared.problems import Forbidden, Unauthenticated

PROFILE = ("email", "name", "locale", "zoneinfo")
_FOR_CHANGE = {"key_share": True}  # lets others refer to the user meanwhile: a post need not wait for a new name


def token_lookup_sql(principal: Principal, place: int) -> tuple[str, list[Any]]:
    """Make the SQL of what is looked at when somebody comes by a token, and its values, in places from `place` on."""
    return _lookup(CALLER_JSON, f"${place}"), [principal.id]


def needs_profile_update(principal: Principal, user: CallerRecord) -> bool:
    """Tell whether somebody has to be let in by `provision_user`; raises as it does for who may not come."""
    _check(principal, deleted=user.deleted, synced_role=user.synced_role)
    return user.id is None or bool(_claimed(user, principal, synced=user.synced))


async def authenticate_many(connection: Driver, principals: Collection[Principal]) -> dict[Principal, tuple[UUID, int]]:
    """Look who comes by a token, for many in one statement; return the log's epoch and head for who has no news."""
    rows: Any = await connection.fetch(_LOOKUP_MANY, list({principal.id for principal in principals}))
    known = [CallerRecord._make(row[2:]) for row in rows]
    users = {user.id: user for user in known}
    unchanged = [each for each in principals if each.id in users and _is_known(each, users[each.id])]
    return dict.fromkeys(unchanged, (rows[0][0], rows[0][1]))


def _is_known(principal: Principal, user: CallerRecord) -> bool:
    """Tell whether somebody may come and has no news; `provision_user` says why not."""
    try:
        return not needs_profile_update(principal, user)
    except (Unauthenticated, Forbidden):
        return False


async def provision_user(session: AsyncSession, principal: Principal) -> tuple[UUID, int]:
    """Let a customer or an admin in: create the user from the token's claims, or fill in what is empty.

    A user whom the store never sent follows the claims of the newest token; once synced, only empty fields are filled.
    Raises `Unauthenticated` for a user whom the store deleted, and `Forbidden` for a token beyond the role that the
    store has sent. Returns the epoch and the head of the log from before: whatever is read later in this transaction
    holds all that the log told up to there.
    """
    beside = select(FeedHead.epoch, FeedHead.head, User).outerjoin(User, User.id == principal.id)
    epoch, head, found = (await session.execute(beside)).one()
    user: User | None = found
    if user is None:
        claims = {field: getattr(principal, field) for field in PROFILE}
        made = insert(User).values(id=principal.id, role=principal.role, claims_issued_at=principal.issued_at, **claims)
        if await session.scalar(made.on_conflict_do_nothing().returning(User.id)) is not None:
            return epoch, head
        # Somebody else has made them at this moment, and it may have been their deletion.
        user = await session.get_one(User, principal.id)
    _check(principal, deleted=user.deleted_at is not None, synced_role=user.synced_role)
    if _claimed(user, principal, synced=user.synced_at is not None):
        user = await session.get_one(User, principal.id, with_for_update=_FOR_CHANGE, populate_existing=True)
        _check(principal, deleted=user.deleted_at is not None, synced_role=user.synced_role)
        if news := _claimed(user, principal, synced=user.synced_at is not None):
            await change_user(session, user, {**news, "claims_issued_at": principal.issued_at})
    return epoch, head


def _check(principal: Principal, *, deleted: bool, synced_role: str | None) -> None:
    """Raise `Unauthenticated` for a user whom the store deleted, `Forbidden` beyond the role that it has sent."""
    if deleted:
        raise Unauthenticated("This user was deleted.")
    check_synced_role(principal, synced_role)


def _claimed(user: User | CallerRecord, principal: Principal, *, synced: bool) -> dict[str, str]:
    """Return the fields that the claims may change, and do: nothing that a newer token has said already."""
    if principal.issued_at < (user.claims_issued_at or 0):
        return {}
    claims = {field: value for field in PROFILE if (value := getattr(principal, field)) is not None}
    return {
        field: value
        for field, value in claims.items()
        if getattr(user, field) != value and (not synced or getattr(user, field) is None)
    }


def _lookup(wanted: str, ids: str) -> str:
    return f"select {wanted} from feed left join users as u on u.id = {ids}"  # noqa: S608 - built from constants


_LOOKUP_MANY = _lookup(f"feed.epoch, feed.head, {CALLER_COLUMNS}", "any($1::text[])")


async def ensure_user(session: AsyncSession, user_id: str, role: Side) -> bool:
    """Know a user at least by id; True when this made them known."""
    created = await session.scalar(
        insert(User).values(id=user_id, role=role).on_conflict_do_nothing().returning(User.id)
    )
    return created is not None


async def change_user(
    session: AsyncSession,
    user: User,
    changes: dict[str, Any],
    event_type: EventType = EventType.USER_UPDATED,
) -> UUID:
    """Apply changes to a locked user, as a new version that the log tells of; return the event's id."""
    for field, value in changes.items():
        setattr(user, field, value)
    user.version += 1
    await session.flush()
    person = Person(
        id=user.id,
        version=user.version,
        deleted=user.deleted_at is not None,
        role=user.synced_role,
        **{field: getattr(user, field) for field in PROFILE},
    )
    return await append_event(session, event_type, UserChanged(person=person), user_id=user.id)
