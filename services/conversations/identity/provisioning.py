"""Provision users: create and update them from the claims of their tokens."""

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
from shared.auth.principal import CallerMerged, Principal
from shared.auth.tokens import check_synced_role
from shared.database.engine import Driver
from shared.events import EventType, UserChanged
from shared.people import Person
from shared.problems import Forbidden, Unauthenticated

PROFILE = ("email", "name", "locale", "zoneinfo")
_FOR_CHANGE = {"key_share": True}  # allows new references to the user, so that posts do not wait for a profile update


def token_lookup_sql(principal: Principal, first_parameter: int) -> tuple[str, list[Any]]:
    """Return the SQL that looks up a caller with a token, and its parameters, numbered from `first_parameter`."""
    return _lookup(CALLER_JSON, f"${first_parameter}"), [principal.id]


def needs_profile_update(principal: Principal, user: CallerRecord) -> bool:
    """Return whether `provision_user` has to run for a caller. Raises the same errors for callers who are refused."""
    _check(principal, user)
    return user.id is None or bool(_claimed_changes(user, principal, synced=user.synced))


async def authenticate_many(connection: Driver, principals: Collection[Principal]) -> dict[Principal, tuple[UUID, int]]:
    """Look up callers with tokens in one statement.

    Returns the log's epoch and head for each caller who is known and unchanged.
    """
    rows: Any = await connection.fetch(_LOOKUP_MANY, list({principal.id for principal in principals}))
    records = [CallerRecord._make(row[2:]) for row in rows]
    users = {user.id: user for user in records}
    unchanged = [
        principal for principal in principals if principal.id in users and is_unchanged(principal, users[principal.id])
    ]
    return dict.fromkeys(unchanged, (rows[0][0], rows[0][1]))


def is_unchanged(principal: Principal, user: CallerRecord) -> bool:
    """Return whether a caller is allowed and has the stored profile; `provision_user` handles all others."""
    try:
        return not needs_profile_update(principal, user)
    except (Unauthenticated, Forbidden, CallerMerged):
        return False


async def provision_user(session: AsyncSession, principal: Principal) -> tuple[UUID, int]:
    """Create a customer or an admin from the token's claims, or update the profile.

    A user whom the store never synced gets the claims of the newest token; for a synced user, claims fill only empty
    fields. Raises `Unauthenticated` for a deleted user, `Forbidden` for a token that exceeds the role that the store
    sent, and `CallerMerged` for an id that belongs to another person now. Returns the log's epoch and head from before:
    later reads in this transaction include every change up to it.
    """
    query = select(FeedHead.epoch, FeedHead.head, User).outerjoin(User, User.id == principal.id)
    row = (await session.execute(query)).one()
    epoch, head = row[0], row[1]
    user: User | None = row[2]
    if user is None:
        claims = {field: getattr(principal, field) for field in PROFILE}
        new = insert(User).values(id=principal.id, role=principal.role, claims_issued_at=principal.issued_at, **claims)
        if await session.scalar(new.on_conflict_do_nothing().returning(User.id)) is not None:
            return epoch, head
        # A concurrent request has just created the user, possibly as deleted.
        user = await session.get_one(User, principal.id)
    _check(principal, user)
    if _claimed_changes(user, principal, synced=user.synced_at is not None):
        user = await session.get_one(User, principal.id, with_for_update=_FOR_CHANGE, populate_existing=True)
        _check(principal, user)
        if changes := _claimed_changes(user, principal, synced=user.synced_at is not None):
            await change_user(session, user, {**changes, "claims_issued_at": principal.issued_at})
    return epoch, head


def _check(principal: Principal, user: User | CallerRecord) -> None:
    """Raise `CallerMerged` for a merged user, `Unauthenticated` for a deleted one, `Forbidden` beyond the role sent."""
    if user.merged_into is not None:
        raise CallerMerged(principal.id, user.merged_into)
    if user.deleted if isinstance(user, CallerRecord) else user.deleted_at is not None:
        raise Unauthenticated("This user was deleted.")
    check_synced_role(principal, user.synced_role)


def _claimed_changes(user: User | CallerRecord, principal: Principal, *, synced: bool) -> dict[str, str]:
    """Return the fields that the token's claims change; none if a newer token has already changed the user."""
    if principal.issued_at < (user.claims_issued_at or 0):
        return {}
    claims = {field: value for field in PROFILE if (value := getattr(principal, field)) is not None}
    return {
        field: value
        for field, value in claims.items()
        if getattr(user, field) != value and (not synced or getattr(user, field) is None)
    }


def _lookup(columns: str, ids: str) -> str:
    return f"select {columns} from feed left join users as u on u.id = {ids}"  # noqa: S608 - built from constants


_LOOKUP_MANY = _lookup(f"feed.epoch, feed.head, {CALLER_COLUMNS}", "any($1::text[])")


async def ensure_user(session: AsyncSession, user_id: str, role: Side) -> bool:
    """Create a user who is known by id only, unless they exist; return whether it did."""
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
    """Apply changes to a locked user as a new version, and log it; return the event's id."""
    for field, value in changes.items():
        setattr(user, field, value)
    user.version += 1
    await session.flush()
    person = Person(
        id=user.id,
        version=user.version,
        deleted=user.deleted_at is not None,
        role=user.synced_role,
        merged_into=user.merged_into,
        **{field: getattr(user, field) for field in PROFILE},
    )
    return await append_event(session, event_type, UserChanged(person=person), user_id=user.id)
