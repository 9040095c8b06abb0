"""Which conversations the next events are about, for readers that keep something up to date for each of them."""

from collections.abc import Collection
from typing import Final, NamedTuple
from uuid import UUID

from shared.database.engine import Driver
from shared.events import EventType

MAX_EVENTS: Final = 2_000  # read at once


class Changes(NamedTuple):
    """The conversations of the events up to a position, and which of them a message was removed from."""

    conversation_ids: list[UUID]
    removed_from: list[UUID]
    position: int


class EventsMissing(Exception):  # noqa: N818 - what happened is no fault
    """The event after the reader's position was purged. `position` is the one before the oldest that is left."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


async def read_changes(driver: Driver, after: int, types: Collection[str], *, limit: int) -> Changes:
    """Return up to `limit` conversations that events of these types after a position are about.

    There must be an event after it. Raises `EventsMissing`.
    """
    events = await driver.fetch(_EVENTS, after, MAX_EVENTS)
    if events[0]["position"] != after + 1:  # positions have no gaps
        raise EventsMissing(events[0]["position"] - 1)
    ids: dict[UUID, None] = {}
    removed_from: set[UUID] = set()
    position = after
    for event in events:
        if event["type"] in types:
            if len(ids) == limit and event["conversation_id"] not in ids:
                break
            ids[event["conversation_id"]] = None
            if event["type"] == EventType.MESSAGE_REMOVED:
                removed_from.add(event["conversation_id"])
        position = event["position"]
    return Changes(list(ids), list(removed_from), position)


_EVENTS: Final = "select position, conversation_id, type from events where position > $1 order by position limit $2"
