"""Merge two customers, such as a guest and the account that they made: the old id becomes an alias of the other one.

The first transaction makes the alias. Its row counts as deleted, so statements that refuse deleted users refuse the old
id, and the code that identifies a caller finds the person instead. Conversations then move in batches, each a
transaction: they are locked without the users, as posts lock them. If a process dies, the jobs move the rest.
"""

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.errors import CannotMerge
from services.conversations.identity.provisioning import PROFILE, change_user, ensure_user
from services.conversations.messaging.merged_ids import finish_merges, log_merge, person_of
from services.conversations.models import BrowserSession, User
from services.conversations.rules import ActorRole, AuditAction, Side
from shared.database.transactions import SessionFactory, run_transaction
from shared.problems import Invalid


async def merge_users(sessions: SessionFactory, old_id: str, into_id: str, *, actor_id: str) -> str:
    """Merge a customer into another one, as `begin_merge` says, and move all; return the person's id."""

    async def begin(session: AsyncSession) -> str:
        is_new = await begin_merge(session, old_id, into_id)
        person_id = await person_of(session, old_id)
        if is_new:
            data = {"into": person_id}
            await record(
                session, Act(AuditAction.USER_MERGED, actor_id, target_id=old_id, data=data, role=ActorRole.STORE)
            )
        return person_id

    person_id = await run_transaction(sessions, begin)
    await finish_merges(sessions, person_id)
    return person_id


async def begin_merge(session: AsyncSession, old_id: str, into_id: str) -> bool:
    """Make a customer's id an alias of another customer; return False if it is one already.

    From the commit on, callers with the old id act as the other one. The person keeps their profile, and gets from the
    old one what they lack. `move_batch` does the rest. An unknown old id is merged, too, so that it never becomes a
    person of its own. Raises `Invalid` if it is the same id or `into_id` is unknown, else `CannotMerge`.
    """
    if old_id == into_id:
        raise Invalid("must be the id of another user", ("body", "into"), "same_user")
    if await session.get(User, into_id) is None:
        raise Invalid("There is no such user.", ("body", "into"), "unknown_user")
    person_id = await person_of(session, into_id)
    await ensure_user(session, old_id, Side.CUSTOMER)
    # The lock waits for posts and other writes under these ids, and those that come later find the old one deleted.
    which = or_(User.id.in_([old_id, person_id]), User.merged_into == old_id)
    rows = await session.scalars(
        select(User).where(which).order_by(User.id).with_for_update().execution_options(populate_existing=True)
    )
    users = {user.id: user for user in rows}
    old, person = users[old_id], users[person_id]
    if old.merged_into == person_id:
        return False
    _check(old, person)
    lacking = {name: value for name in _FIELDS if (value := getattr(old, name)) and not getattr(person, name)}
    for alias in users.values():
        if alias.merged_into == old_id:
            alias.merged_into = person_id
    await _move_rows(session, old_id, person_id)
    await _make_alias(session, old, person_id)
    # Also unchanged: what the notifications service knows of somebody who was never synced, it knows from messages.
    await change_user(session, person, lacking)
    await log_merge(session, old, old_id)
    return True


async def _move_rows(session: AsyncSession, old_id: str, person_id: str) -> None:
    """Give the person what callers read and write under the old id, but for conversations."""
    await session.execute(
        delete(BrowserSession).where(BrowserSession.user_id == old_id, BrowserSession.role != Side.CUSTOMER)
    )
    for statement in _MOVE:
        await session.execute(statement, {"old": old_id, "new": person_id})


async def _make_alias(session: AsyncSession, old: User, person_id: str) -> None:
    """Empty the profile of the old id, and let its row say whose the id is."""
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    for field in _FIELDS:
        setattr(old, field, None)
    old.deleted_at, old.merged_into = now, person_id
    old.version += 1
    await session.flush()


def _check(old: User, person: User) -> None:
    """Raise `CannotMerge` unless these are two present customers."""
    if old.merged_into is not None:
        raise CannotMerge(f"{old.id} was merged into {old.merged_into}. This cannot be undone.")
    if old.id == person.id:
        raise CannotMerge("They are one person already: the other id was merged into this one.")
    for user in (old, person):
        if user.merged_into is not None:
            raise CannotMerge(f"{user.id} has just been merged into {user.merged_into}. Try again.")
        if user.deleted_at is not None:
            raise CannotMerge(f"{user.id} was deleted. Only present customers can be merged.")
        if user.role != Side.CUSTOMER or user.synced_role == Side.ADMIN:
            raise CannotMerge(f"{user.id} is an admin. Only customers can be merged.")


_FIELDS = (*PROFILE, "custom")
# Of two equal idempotency keys the person's stays.
_MOVE = [
    text(statement)
    for statement in (
        "update orders set user_id = :new where user_id = :old",
        "update sessions set user_id = :new where user_id = :old",
        """
        update attachments as file set uploader_id = :new, idempotency_key = case when not exists (
            select from attachments as other
            where other.uploader_id = :new and other.idempotency_key = file.idempotency_key
        ) then idempotency_key end
        where uploader_id = :old
        """,
        """
        update create_keys as mine set caller_id = :new where caller_id = :old and not exists (
            select from create_keys as other where other.caller_id = :new and other.key = mine.key
        )
        """,
        "update email_stops set user_id = :new where user_id = :old",
    )
]
