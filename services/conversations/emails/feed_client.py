"""Read the notifications service's log, and its list of emails, over HTTP."""

from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import TypeVar
from uuid import UUID

import httpx2

from shared.event_log.feed_client import AFTER_EVERYTHING
from shared.notifications_feed import EmailPage, EmailStop, HeldPage, InboundStatus, LogPage, StopsPage

READER = "conversations"
PAGE = 500  # events or emails read at once

P = TypeVar("P", HeldPage, StopsPage)


async def read_log(feed: httpx2.AsyncClient, after: int, types: Sequence[str]) -> LogPage | None:
    """Return a page of the log, and acknowledge events up to `after`; None if the log was purged beyond it."""
    params: dict[str, str | int | Sequence[str]] = {"after": after, "limit": PAGE, "reader": READER, "type": types}
    response = await feed.get("/internal/events", params=params)
    if response.status_code == HTTPStatus.GONE:
        return None
    response.raise_for_status()
    return LogPage.model_validate_json(response.content)


async def read_end(feed: httpx2.AsyncClient, types: Sequence[str]) -> LogPage:
    """Return the end of the log, without events; acknowledges nothing."""
    response = await feed.get("/internal/events", params={"after": AFTER_EVERYTHING, "type": types})
    response.raise_for_status()
    return LogPage.model_validate_json(response.content)


async def list_emails(feed: httpx2.AsyncClient, after: UUID) -> EmailPage:
    """Return a page of the emails in a final state."""
    return EmailPage.model_validate_json(await _get_page(feed, "/internal/emails", after))


async def list_held(feed: httpx2.AsyncClient) -> list[InboundStatus]:
    """Return all emails that came in and are held."""
    return [email async for page in _pages(feed, "/internal/held", HeldPage) for email in page.items]


async def list_stops(feed: httpx2.AsyncClient) -> list[EmailStop]:
    """Return all reasons why customers get no emails."""
    return [stop async for page in _pages(feed, "/internal/stops", StopsPage) for stop in page.items]


async def _pages(feed: httpx2.AsyncClient, path: str, kind: type[P]) -> AsyncIterator[P]:
    after: UUID | None = UUID(int=0)
    while after is not None:
        page = kind.model_validate_json(await _get_page(feed, path, after))
        yield page
        after = page.last


async def _get_page(feed: httpx2.AsyncClient, path: str, after: UUID) -> bytes:
    response = await feed.get(path, params={"after": str(after), "limit": PAGE})
    response.raise_for_status()
    return response.content
