"""The other service's event log, read over HTTP."""

from http import HTTPStatus

import httpx2

from shared.events import Feed, Kind, Snapshot

READER = "notifications"
SNAPSHOT_PAGE = 500  # ids read at once
TIMEOUT = 10.0  # seconds
BEHIND_EVERYTHING = 2**63 - 1


def create_feed(url: str, secret: str) -> httpx2.AsyncClient:
    """Make the client that reads the log."""
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=TIMEOUT,
        trust_env=False,  # this is a neighbour, not the world behind a proxy
    )


async def read_events(feed: httpx2.AsyncClient, after: int, *, limit: int, min_age: float) -> Feed | None:
    """Return a page of the log, and say that everything up to `after` is done with; None when the log was purged."""
    params: dict[str, str | float] = {"after": after, "limit": limit, "min_age": min_age, "reader": READER}
    answer = await feed.get("/internal/events", params=params)
    if answer.status_code == HTTPStatus.GONE:
        return None
    answer.raise_for_status()
    return Feed.model_validate_json(answer.content)


async def read_end(feed: httpx2.AsyncClient) -> Feed:
    """Return where the log ends, without events; it acknowledges nothing."""
    answer = await feed.get("/internal/events", params={"after": BEHIND_EVERYTHING, "reader": READER})
    answer.raise_for_status()
    return Feed.model_validate_json(answer.content)


async def read_snapshot(feed: httpx2.AsyncClient, kind: Kind, after: str | None) -> Snapshot:
    """Return a page of the other service's present state."""
    params: dict[str, str | int] = {"limit": SNAPSHOT_PAGE}
    if after is not None:
        params["after"] = after
    answer = await feed.get(f"/internal/snapshot/{kind}", params=params)
    answer.raise_for_status()
    return Snapshot.model_validate_json(answer.content)
