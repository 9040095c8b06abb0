"""This service's own log for the conversations service. The proxy must not expose it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from services.notifications.api import person_queries
from services.notifications.event_log import feed
from shared.api.app_state import app_state
from shared.api.dependencies import DbSession, check_feed_secret
from shared.api.response_body import write_json
from shared.database.transactions import request_connection, request_transaction
from shared.event_log.retention import acknowledge
from shared.notifications_feed import EmailPage, HeldPage, LoggedType, LogPage, StopsPage
from shared.people import StoreId
from shared.problems import NotFound

MAX_POSITION = 2**63 - 1
FIRST_ID = UUID(int=0)

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


UserIds = Annotated[list[StoreId], Query(alias="user_id", min_length=1)]


@router.get("/people")
async def read_person(request: Request, user_ids: UserIds) -> Response:
    """Return what is known of a person, for an export of their data."""
    async with request_connection(app_state(request).acquire) as connection:
        found = await person_queries.read_profile(connection, user_ids)
    return _json(found)


@router.get("/people/{holding}")
async def list_of_person(
    request: Request,
    holding: person_queries.Holding,
    user_ids: UserIds,
    after: UUID = FIRST_ID,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Response:
    """Return a page of what a person has: notifications, emails to them, or emails from them."""
    async with request_connection(app_state(request).acquire) as connection:
        items = await person_queries.list_held_of(connection, holding, user_ids, after, limit)
    return _json({"items": items, "last": items[-1]["id"] if len(items) == limit else None})


@router.get("/people/inbound-emails/{inbound_id}")
async def read_original_of_person(request: Request, inbound_id: UUID, user_ids: UserIds) -> Response:
    """Return an email of a person as it came in."""
    async with request_connection(app_state(request).acquire) as connection:
        original = await person_queries.read_original_of(connection, user_ids, inbound_id)
    if original is None:
        raise NotFound("There is no such email, or its original is not kept any more.")
    return Response(original, media_type="message/rfc822")


def _json(body: object) -> Response:
    return Response(write_json(body), media_type="application/json")
