"""The event feed for the notifications service. The proxy must not expose it."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request

from services.conversations.api.state import api_state
from services.conversations.event_log import retention, snapshot
from services.conversations.event_log.reader import read_feed
from shared.dependencies import DbSession
from shared.events import Feed, Kind, Snapshot
from shared.problems import Unauthenticated

MAX_POSITION = 2**63 - 1


async def _check_secret(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    secret = api_state(request).settings.feed_secret
    expected = f"Bearer {secret.get_secret_value()}" if secret else ""
    if not expected or not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Unauthenticated("Missing or wrong CHATS_FEED_SECRET.")


router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(_check_secret)])


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
        before = await retention.acknowledge(session, reader, after if after <= feed.head else None)
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
