"""HTTP client for the event log of the conversations service."""

from http import HTTPStatus

import httpx2

from shared.event_log.feed_client import AFTER_EVERYTHING
from shared.events import Feed, Kind, Snapshot

READER = "notifications"
SNAPSHOT_PAGE = 500  # ids read at once


async def read_events(feed: httpx2.AsyncClient, after: int, *, limit: int, min_age: float) -> Feed | None:
    """Return a page of the log, and acknowledge events up to `after`; None if the log was purged beyond it."""
    params: dict[str, str | float] = {"after": after, "limit": limit, "min_age": min_age, "reader": READER}
    response = await feed.get("/internal/events", params=params)
    if response.status_code == HTTPStatus.GONE:
        return None
    response.raise_for_status()
    return Feed.model_validate_json(response.content)


async def read_end(feed: httpx2.AsyncClient) -> Feed:
    """Return the end of the log, without events; acknowledges nothing."""
    response = await feed.get("/internal/events", params={"after": AFTER_EVERYTHING, "reader": READER})
    response.raise_for_status()
    return Feed.model_validate_json(response.content)


async def read_snapshot(feed: httpx2.AsyncClient, kind: Kind, after: str | None) -> Snapshot:
    """Return a page of the snapshot of the current state."""
    params: dict[str, str | int] = {"limit": SNAPSHOT_PAGE}
    if after is not None:
        params["after"] = after
    response = await feed.get(f"/internal/snapshot/{kind}", params=params)
    response.raise_for_status()
    return Snapshot.model_validate_json(response.content)
