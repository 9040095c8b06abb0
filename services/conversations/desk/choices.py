"""What the pages offer to choose from: admins to assign, and labels."""

import json
from dataclasses import dataclass
from typing import Final, TypedDict

from services.conversations.desk.labels import fold
from services.conversations.messaging.queries import IS_ADMIN
from shared.database.engine import Driver

MOST: Final = 500  # of each


class Choice(TypedDict):
    """An admin; without a name, `name` is the id."""

    id: str
    name: str


class CannedChoice(TypedDict):
    """A canned reply to insert."""

    id: str
    shortcut: str
    title: str


@dataclass(frozen=True, slots=True)
class Choices:
    """The present admins by name, the labels with their ids, and the canned replies; up to 500 of each."""

    admins: list[Choice]
    labels: dict[str, int]
    canned_replies: list[CannedChoice]

    def has(self, label: str | None) -> bool:
        """Return whether there is such a label, or none is asked for."""
        return label is None or self.label_id(label) is not None

    def admin_name(self, admin_id: str) -> str:
        """Return the name of an admin, or the id."""
        return next((admin["name"] for admin in self.admins if admin["id"] == admin_id), admin_id)

    def label_id(self, label: str | None) -> int | None:
        """Return the id of a label, or None."""
        return next((number for name, number in self.labels.items() if label and fold(name) == fold(label)), None)


async def load_choices(connection: Driver) -> Choices:
    """Load the choices in one statement."""
    row = await connection.fetchrow(_CHOICES)
    assert row is not None  # noqa: S101 - a select without `from` always returns a row
    return Choices(json.loads(row[0]), dict(zip(row[1], row[2], strict=True)), json.loads(row[3]))


_CHOICES = f"""
    select
        (
            select coalesce(json_agg(json_build_object('id', id, 'name', coalesce(name, id)) order by name, id), '[]')
            from (select id, name from users as u where {IS_ADMIN} order by id limit {MOST}) as admins
        )::text,
        array(select name from labels order by folded limit {MOST}),
        array(select id from labels order by folded limit {MOST}),
        (
            select coalesce(json_agg(json_build_object('id', id, 'shortcut', shortcut, 'title', title)), '[]')
            from (
                select id, shortcut, title from canned_replies order by lower(shortcut), locale limit {MOST}
            ) as canned
        )::text
"""  # noqa: S608 - built from constants
