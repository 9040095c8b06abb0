"""The event feed for the notifications service, on the process's own port only: the proxy does not pass it on."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request

from services.conversations.event_log import retention, snapshot
from services.conversations.event_log.reader import read_feed
from shared.database import DbSession
from shared.events import Feed, Kind, Snapshot
from shared.problems import Unauthenticated

MAX_POSITION = 2**63 - 1


async def _check_secret(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    secret = request.app.state.settings.feed_secret
    expected = f"Bearer {secret.get_secret_value()}" if secret else ""
    if not expected or not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Unauthenticated("The event feed needs its own secret.")


router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(_check_secret)])


@router.get("/events")
async def read_events(
    session: DbSession,
    after: Annotated[int, Query(ge=0, le=MAX_POSITION)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    min_age: Annotated[float, Query(ge=0, le=60)] = 0,
    reader: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
) -> Feed:
    """Return the log behind a position, as far as its events were numbered at least `min_age` seconds ago.

    A `reader` who gives a name says that it has done with everything up to there, and is told how far it once was.
    """
    feed = await read_feed(session, after=after, limit=limit, min_age=min_age)
    if reader is not None:
        known = await retention.acknowledge(session, reader, after if after <= feed.head else None)
        feed.acknowledged, feed.acknowledged_at = known
    return feed


@router.get("/snapshot/{kind}")
async def read_snapshot(
    session: DbSession,
    kind: Kind,
    after: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Snapshot:
    """Return a page of the present state, for a reader whose place in the log is gone."""
    return await snapshot.read_snapshot(session, kind, after=after, limit=limit)
