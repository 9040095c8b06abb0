"""Remember why customers get no emails, as the notifications service's log says."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.transactions import transaction_driver
from shared.notifications_feed import EmailStop


async def write_stops(session: AsyncSession, changes: Iterable[tuple[UUID, EmailStop | None]]) -> None:
    """Write reasons for no emails; None is one that is over. Repeating it changes nothing."""
    newest = dict(changes)
    if not newest:
        return
    driver = await transaction_driver(session)
    over = [stop_id for stop_id, stop in newest.items() if stop is None]
    await driver.execute("delete from email_stops where id = any($1::uuid[])", over)
    rows = [
        (stop_id, stop.user_id, stop.conversation_id, stop.reason)
        for stop_id, stop in newest.items()
        if stop is not None
    ]
    if rows:
        await driver.execute(_WRITE, *zip(*rows, strict=True))


async def forget_stops(session: AsyncSession) -> None:
    """Forget all reasons, before they are listed again."""
    await (await transaction_driver(session)).execute("delete from email_stops")


# The conversations are locked, so that a row is written before their deletion or not at all.
_WRITE: Final = """
    with stops as (
        select stop.id, coalesce(users.merged_into, stop.user_id) as user_id, conversation_id, reason
        from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) as stop (id, user_id, conversation_id, reason)
            left join users on users.id = stop.user_id
    ), alive as (
        select conversations.id, coalesce(users.merged_into, user_id) as user_id
        from conversations join users on users.id = user_id
        where conversations.id = any(array(select conversation_id from stops))
        order by id for key share of conversations
    )
    insert into email_stops (id, user_id, conversation_id, reason)
    select id, user_id, conversation_id, reason from stops
    where conversation_id is null or (conversation_id, user_id) in (select id, user_id from alive)
    on conflict (id) do update set user_id = excluded.user_id
    where email_stops.user_id is distinct from excluded.user_id
"""
