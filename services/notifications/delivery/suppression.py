"""Addresses to which no email is sent any more, because emails to them were reported as undeliverable.

Only a keyed hash of each address is stored. It stays when a person is erased, so that the same address is not tried
again. A person who changes the address gets emails again: the new one has another hash.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_log.append import STOP_UPDATED_SQL, append_events
from services.notifications.mail.addresses import mailbox_of, mailbox_or_none
from services.notifications.models import Person, Suppression
from shared.database.transactions import transaction_driver
from shared.notifications_feed import LoggedType
from shared.paging import decode_cursor, encode_cursor
from shared.problems import NotFound


@dataclass(frozen=True, slots=True)
class Cause:
    """The email that was reported, and why."""

    email_id: UUID
    user_id: str | None
    reason: str
    status: str


async def suppress(session: AsyncSession, address_hash: bytes, cause: Cause) -> bool:
    """Send no email to an address any more; return False if that is so already."""
    values = (address_hash, cause.user_id, cause.email_id, cause.reason, cause.status)
    begun = await (await transaction_driver(session)).fetchval(_SUPPRESS, *values)
    await append_events(session, LoggedType.STOP_UPDATED, [begun] if begun is not None else [])
    return begun is not None


async def find_suppressed(session: AsyncSession, mailboxes: Collection[str]) -> set[str]:
    """Return those of some mailboxes that are suppressed."""
    if not mailboxes:
        return set()
    rows = await (await transaction_driver(session)).fetch(_FIND, sorted(mailboxes))
    return {row["mailbox"] for row in rows}


async def is_suppressed(session: AsyncSession, user_id: str) -> bool:
    """Return whether a person's present address is suppressed."""
    return bool(await session.scalar(select(exists().where(Suppression.user_id == user_id))))


async def list_suppressed(
    session: AsyncSession, *, user_id: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[Suppression], str | None]:
    """Return a page of suppressed addresses, newest first, and the next cursor. A merged id is the person's."""
    bound = ("suppressed", user_id)
    query = select(Suppression).order_by(Suppression.id.desc())
    if user_id is not None:
        person_id = select(Person.merged_into).where(Person.id == user_id).scalar_subquery()
        query = query.where(Suppression.user_id == func.coalesce(person_id, user_id))
    if cursor is not None:
        query = query.where(Suppression.id < decode_cursor(cursor, bound, UUID)[0])
    rows = (await session.scalars(query.limit(limit + 1))).all()
    page = rows[:limit]
    return page, encode_cursor(bound, [str(page[-1].id)]) if len(rows) > limit else None


async def remove_suppression(session: AsyncSession, suppression_id: UUID) -> None:
    """Send emails to an address again, and forget its bounces. Raises `NotFound`."""
    if not await _remove(session, _REMOVE, suppression_id):
        raise NotFound("There is no suppressed address with this id.")


async def remove_suppressed_address(session: AsyncSession, address: str) -> bool:
    """Do the same by the address; return False if it is not suppressed. Raises AddressError."""
    return await _remove(session, _REMOVE_ADDRESS, mailbox_of(address))


async def _remove(session: AsyncSession, statement: str, which: UUID | str) -> bool:
    gone = await (await transaction_driver(session)).fetchval(statement, which)
    await append_events(session, LoggedType.STOP_UPDATED, [gone] if gone is not None else [])
    return gone is not None


async def follow_addresses(session: AsyncSession, addresses: Mapping[str, str | None]) -> None:
    """Note that users have these addresses now: who has another one than the suppressed one may get emails."""
    if addresses:
        mailboxes = [mailbox_or_none(address) for address in addresses.values()]
        await (await transaction_driver(session)).execute(_FOLLOW, list(addresses), mailboxes)


_HASH: Final = "sha256(gate.leave_key || convert_to('suppressed address ' || {}, 'UTF8'))"
HASH_SQL: Final = _HASH.format("$1::text")
"""SQL of the hash of the mailbox `$1`, null without one; needs the table `gate`."""
_FIND: Final = f"""
select mailbox from unnest($1::text[]) as each (mailbox), gate
where exists (select from suppressions where address_hash = {_HASH.format("mailbox")})
"""  # noqa: S608 - built from constants
_FORGET: Final = """
with gone as ({}), past as (
    delete from bounces using gone where bounces.address_hash = gone.address_hash
)
select id from gone
"""
_REMOVE: Final = _FORGET.format("delete from suppressions where id = $1 returning id, address_hash")
_REMOVE_ADDRESS: Final = _FORGET.format(
    f"delete from suppressions using gate where address_hash = {HASH_SQL} returning id, address_hash"  # noqa: S608 - built from constants
)
_FOLLOW: Final = f"""
with known as (
    select user_id, {_HASH.format("mailbox")} as hash
    from unnest($1::text[], $2::text[]) as now (user_id, mailbox), gate
), ended as (
    update suppressions set user_id = null from known
    where suppressions.user_id = known.user_id and address_hash is distinct from hash returning suppressions.id
), begun as (
    update suppressions set user_id = known.user_id from known
    where address_hash = hash and suppressions.user_id is null returning suppressions.id
)
{STOP_UPDATED_SQL} (select id from ended union all select id from begun) as changed
"""  # noqa: S608 - built from constants
_SUPPRESS: Final = """
insert into suppressions (address_hash, user_id, email_id, reason, status) values ($1, $2, $3, $4, $5)
on conflict (address_hash) do nothing returning id
"""
