"""This service's own log for the conversations service. The proxy must not expose it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from services.notifications.event_log import feed
from shared.app_state import app_state
from shared.database import request_connection, request_transaction
from shared.dependencies import DbSession, check_feed_secret
from shared.event_log.retention import acknowledge
from shared.notifications_feed import EmailPage, HeldPage, LoggedType, LogPage, StopsPage

MAX_POSITION = 2**63 - 1

router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(check_feed_secret)])


@router.get("/events")
async def read_events(
    request: Request,
    types: Annotated[list[LoggedType], Query(alias="type", min_length=1)],
    after: Annotated[int, Query(ge=0, le=MAX_POSITION)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    reader: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
) -> LogPage:
    """Return the events of some types after a position. A named `reader` acknowledges the events up to it."""
    sessions = app_state(request).sessions
    async with request_connection(app_state(request).acquire) as connection:
        is_numbered = not await connection.fetch(feed.ANY_UNNUMBERED)
    if not is_numbered:
        async with request_transaction(sessions) as session:
            await feed.number_events(session)
    # Only when they are committed: a position that was read must never belong to another event.
    async with request_transaction(sessions) as session:
        page = await feed.read_log(session, after=after, types=types, limit=limit)
        if reader is not None and after <= page.head:
            await acknowledge(session, reader, after)
    return page


@router.get("/emails")
async def list_emails(
    session: DbSession, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 500
) -> EmailPage:
    """Return the emails in a final state, for a reader whose place in the log is lost."""
    return await feed.list_emails(session, after=after, limit=limit)


@router.get("/held")
async def list_held(
    session: DbSession, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 500
) -> HeldPage:
    """Return the emails that came in and are held, for a reader whose place in the log is lost."""
    return await feed.list_held(session, after=after, limit=limit)


@router.get("/stops")
async def list_stops(
    session: DbSession, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 500
) -> StopsPage:
    """Return the reasons why customers get no emails, for a reader whose place in the log is lost."""
    return await feed.list_stops(session, after=after, limit=limit)
