"""The event feed for the notifications service. The proxy must not expose it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from services.conversations.event_log import snapshot
from services.conversations.event_log.reader import read_feed
from shared.api.dependencies import DbSession, check_feed_secret
from shared.event_log.retention import acknowledge
from shared.events import Feed, Kind, Snapshot

MAX_POSITION = 2**63 - 1

router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(check_feed_secret)])


@router.get("/events")
async def read_events(
    session: DbSession,
    after: Annotated[int, Query(ge=0, le=MAX_POSITION)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    min_age: Annotated[float, Query(ge=0, le=60)] = 0,
    reader: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
) -> Feed:
    """Return the events after a position that were numbered at least `min_age` seconds ago.

    A named `reader` acknowledges the events up to that position, and gets the position that it acknowledged before.
    """
    feed = await read_feed(session, after=after, limit=limit, min_age=min_age)
    if reader is not None:
        before = await acknowledge(session, reader, after if after <= feed.head else None)
        feed.acknowledged, feed.acknowledged_at = before
    return feed


@router.get("/snapshot/{kind}")
async def read_snapshot(
    session: DbSession,
    kind: Kind,
    after: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Snapshot:
    """Return a page of the current state, for a reader whose events have been purged."""
    return await snapshot.read_snapshot(session, kind, after=after, limit=limit)
