"""Save the people in events. Each has a version, so the order in which they arrive does not matter."""

from collections.abc import Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType

from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.suppression import follow_addresses
from services.notifications.delivery.timing import decide_again
from shared.database.transactions import transaction_driver
from shared.people import Person


async def update_people(
    session: AsyncSession, people: Iterable[Person], saved_versions: Mapping[str, int] = MappingProxyType({})
) -> list[Person]:
    """Save people that are newer than the saved version; return those that were saved.

    `saved_versions` are what was read before. Most events hold nobody who is newer, and cost no statement.
    """
    versions, newest = dict(saved_versions), dict[str, Person]()
    for person in people:
        if person.id not in versions or versions[person.id] < person.version:
            versions[person.id], newest[person.id] = person.version, person
    if not newest:
        return []
    columns = zip(*(_PERSON(newest[key]) for key in sorted(newest)), strict=True)
    rows = await (await transaction_driver(session)).fetch(_UPDATE_PEOPLE, *columns)
    saved = [newest[row["id"]] for row in rows]
    if known := [person.id for person in saved if person.version > 1]:  # perhaps an admin in another time zone now
        await decide_again(session, known)
        await follow_addresses(session, {person.id: person.email for person in saved if person.version > 1})
    return saved


_PERSON = attrgetter("id", "version", "name", "email", "locale", "zoneinfo", "role", "deleted")
# Only those that are newer: an upsert locks rows that it does not change, and the same admin occurs in many events.
_UPDATE_PEOPLE = """
    insert into people (id, version, name, email, locale, zoneinfo, role, deleted)
    select * from unnest($1::text[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[])
        as new (id, version, name, email, locale, zoneinfo, role, deleted)
    where not exists (select from people where people.id = new.id and people.version >= new.version)
    order by new.id
    on conflict (id) do update set version = excluded.version, name = excluded.name, email = excluded.email,
        locale = excluded.locale, zoneinfo = excluded.zoneinfo, role = excluded.role, deleted = excluded.deleted,
        merged_into = case when excluded.deleted then people.merged_into end
    where people.version < excluded.version
    returning id
"""
