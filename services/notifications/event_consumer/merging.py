"""Merged customers: what is of the old id becomes the person's, whose emails go to their address.

An event of the old id may be handled after that of the merger. So each handler first reads whose the ids in its events
are. It holds a lock meanwhile, shared with all but the handler of a merger, which would miss what another one is about
to write.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.suppression import follow_addresses
from services.notifications.event_log.append import STOP_UPDATED_SQL
from services.notifications.rules import Audience
from shared.database.transactions import transaction_driver
from shared.events import MessagePosted
from shared.people import Person

_LOCK: Final = 5_021_977  # the key of an advisory lock, used for nothing else


async def begin_merges(session: AsyncSession, people: Iterable[Person]) -> dict[str, str]:
    """Note which of these people are merged, with whom they are one now; return these. Call it before other writes."""
    merged = {person.id: person.merged_into for person in people if person.merged_into is not None}
    if not merged:
        return {}
    driver = await transaction_driver(session)
    await driver.execute("select pg_advisory_xact_lock($1)", _LOCK)
    for old_id, into in sorted(merged.items()):
        merged[old_id] = await driver.fetchval(_NOTE, old_id, into)
        await driver.execute(_FLATTEN, old_id, merged[old_id])
    await follow_addresses(session, dict.fromkeys(merged, None))
    return merged


async def use_persons(session: AsyncSession, posted: Sequence[MessagePosted]) -> dict[str, int]:
    """Replace the customers' ids that were merged since these events, by the persons'.

    No merger begins before the transaction ends. Return the saved versions of the people in these events.
    """
    if not posted:
        return {}
    driver = await transaction_driver(session)
    ids = sorted({person.id for event in posted for person in (event.customer, event.sender)})
    rows = await driver.fetch(_PERSONS, _LOCK, ids)
    if not rows[0]["is_locked"]:  # a merger is being handled, of which the statement has seen nothing
        await driver.execute("select pg_advisory_xact_lock_shared($1)", _LOCK)
        rows = await driver.fetch(_PERSONS, _LOCK, ids)
    persons = {row["id"]: row["merged_into"] for row in rows}
    for event in posted:
        if person_id := persons.get(event.customer.id):
            person = event.customer.model_copy(update={"id": person_id})
            if event.sender.id == event.customer.id:
                event.sender = person
            event.customer = person
    return {row["id"]: row["version"] for row in rows if row["id"] is not None}


async def move_merged(session: AsyncSession, merged: Mapping[str, str]) -> set[str]:
    """Make everything of merged ids the persons'; return those who were deleted. Repeating it changes nothing."""
    driver = await transaction_driver(session)
    for old_id, person_id in sorted(merged.items()):
        for statement in _MOVES:
            await driver.execute(statement, old_id, person_id)
    deleted = await driver.fetch(_DELETED, sorted(set(merged.values())))
    return {row["id"] for row in deleted}


async def ids_of(session: AsyncSession, user_ids: Collection[str]) -> list[str]:
    """Return all ids of these people."""
    driver = await transaction_driver(session)
    rows = await driver.fetch("select id from people where merged_into = any($1::text[])", list(user_ids))
    return sorted({*user_ids, *(row["id"] for row in rows)})


# A chain leads to its end, in any order of its links.
_NOTE: Final = """
    insert into people (id, version, deleted, merged_into)
    select $1, 0, true, coalesce((select merged_into from people where id = $2), $2)
    on conflict (id) do update set deleted = true, merged_into = excluded.merged_into,
        name = null, email = null, locale = null, zoneinfo = null
    returning merged_into
"""
_DELETED: Final = "select id from people where id = any($1::text[]) and deleted"
_FLATTEN: Final = "update people set merged_into = $2 where merged_into = $1"
_PERSONS: Final = """
    select is_locked, id, merged_into, version
    from (select pg_try_advisory_xact_lock_shared($1) as is_locked) as lock
        left join people on id = any($2::text[])
"""

_MOVES: Final = (
    """
    update notifications set user_id = $2 where id = any(array(
        select id from notifications where user_id = $1 order by id for update
    ))
    """,
    # An open email of the person about the same conversation stays the one that further messages join.
    f"""
    update emails as mine set recipient_id = $2, claimed_at = case
            when mine.claimed_at is null and mine.state = 'scheduled' and exists (
                select from emails as other
                where other.recipient_id = $2 and other.conversation_id = mine.conversation_id
                    and other.audience = mine.audience and other.state = 'scheduled' and other.claimed_at is null
            ) then clock_timestamp()
            else mine.claimed_at
        end
    where id = any(array(
        select id from emails where recipient_id = $1 and audience = '{Audience.CUSTOMER}' order by id for update
    ))
    """,  # noqa: S608 - built from constants
    "update inbound_emails set user_id = $2 where user_id = $1",
    # A wish for no emails is the person's wish now.
    f"""
    with known as (
        delete from mutes using mutes as other
        where mutes.user_id = $1 and other.user_id = $2
            and other.conversation_id is not distinct from mutes.conversation_id
        returning mutes.id
    )
    {STOP_UPDATED_SQL} known
    """,  # noqa: S608 - built from constants
    f"""
    with moved as (update mutes set user_id = $2 where user_id = $1 returning id)
    {STOP_UPDATED_SQL} moved
    """,  # noqa: S608 - built from constants
)
