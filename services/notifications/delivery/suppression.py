"""Addresses to which no email is sent any more, because emails to them were reported as undeliverable.

Only a keyed hash of each address is stored. It stays when a person is erased, so that the same address is not tried
again. A person who changes the address gets emails again: the new one has another hash.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.mail.addresses import AddressError, mailbox_of
from services.notifications.models import Suppression
from shared.database import transaction_driver
from shared.paging import decode_cursor, encode_cursor
from shared.problems import NotFound


def hash_sql(mailbox: str) -> str:
    """Return the SQL of the hash of a mailbox, an SQL expression; needs the table `gate`. Of null it is null."""
    return f"sha256(gate.leave_key || convert_to('suppressed address ' || {mailbox}, 'UTF8'))"


@dataclass(frozen=True, slots=True)
class Cause:
    """The email that was reported, and why."""

    email_id: UUID
    user_id: str | None
    reason: str
    status: str


def mailbox_or_none(address: str | None) -> str | None:
    """Return the canonical form of an address; None without one, or for one that cannot receive email."""
    try:
        return mailbox_of(address) if address else None
    except AddressError:
        return None


async def suppress(session: AsyncSession, address_hash: bytes, cause: Cause) -> bool:
    """Send no email to an address any more; return False if that is so already."""
    values = (address_hash, cause.user_id, cause.email_id, cause.reason, cause.status)
    return await (await transaction_driver(session)).fetchval(_SUPPRESS, *values) is not None


async def find_suppressed(session: AsyncSession, mailboxes: Collection[str]) -> set[str]:
    """Return those of some mailboxes that are suppressed."""
    if not mailboxes:
        return set()
    rows = await (await transaction_driver(session)).fetch(_FIND, sorted(mailboxes))
    return {row["mailbox"] for row in rows}


async def list_suppressed(
    session: AsyncSession, *, cursor: str | None, limit: int
) -> tuple[Sequence[Suppression], str | None]:
    """Return a page of suppressed addresses, newest first, and the next cursor."""
    after = decode_cursor(cursor, ["suppressed"], UUID)[0] if cursor is not None else None
    query = _LIST.bindparams(after=after, n=limit + 1)
    rows = list(await session.scalars(query_of(query)))
    page = rows[:limit]
    return page, encode_cursor(["suppressed"], [str(page[-1].id)]) if len(rows) > limit else None
