"""Many emails in one call, each with its own outcome. The proxy must not expose it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError

from services.conversations.api.routes.inbound import (
    InboundMessage,
    check_secret,
    find_authors,
    mark_answered,
    of_person,
    save_email,
)
from services.conversations.errors import RateLimited
from shared.api.streamed_body import received
from shared.problems import Invalid, PayloadTooLarge, Problem

BATCH: Final = "/internal/inbound/batch"
MAX_EMAILS: Final = 50
MAX_BYTES: Final = 4 * 2**20

log = structlog.get_logger()
router = APIRouter(include_in_schema=False, dependencies=[Depends(check_secret)])

Outcome = dict[str, Any]


class _Email(InboundMessage):
    id: UUID


@router.post(BATCH)
async def post_inbound_messages(request: Request) -> dict[str, list[Outcome]]:
    """Save emails as single calls would; return the outcome of each: a status, and what it has.

    They are saved in any order: callers send one of each conversation at a time.
    """
    limit = PayloadTooLarge(f"The emails are larger than {MAX_BYTES} bytes.")
    content = b"".join([chunk async for chunk in received(request, MAX_BYTES, limit)])
    emails = [_read(item) for item in _items(content)]
    authors = await find_authors(request, [email.user_id for email in emails if isinstance(email, _Email)])
    emails = [of_person(email, authors) if isinstance(email, _Email) else email for email in emails]
    # At the same time, so that they share a statement and a commit.
    outcomes = await asyncio.gather(*(_save(request, email, authors) for email in emails))
    saved = [email for email, outcome in zip(emails, outcomes, strict=True) if outcome["status"] == HTTPStatus.CREATED]
    await mark_answered(request, [email for email in saved if isinstance(email, _Email)])
    return {"outcomes": list(outcomes)}


def _items(content: bytes) -> Sequence[Any]:
    try:
        document = json.loads(content)
        items = document["emails"]
    except (ValueError, TypeError, KeyError, RecursionError):
        items = None
    if not isinstance(items, list) or len(items) > MAX_EMAILS:
        raise Invalid(f"send up to {MAX_EMAILS} emails", ("body", "emails"))
    return items


def _read(item: Any) -> _Email | Outcome:
    try:
        return _Email.model_validate(item)
    except ValidationError as error:
        return {"status": int(HTTPStatus.UNPROCESSABLE_ENTITY), "detail": str(error.errors()[0]["msg"])}


async def _save(request: Request, email: _Email | Outcome, authors: Mapping[str, Mapping[str, Any]]) -> Outcome:
    if not isinstance(email, _Email):
        return email
    try:
        return {"status": int(HTTPStatus.CREATED)} | await save_email(request, email.id, email, authors)
    except RateLimited as error:
        return {"status": int(error.status), "seconds": error.seconds}
    except Problem as error:
        return {"status": int(error.status), "detail": error.detail}
    except Exception as error:  # a bug, with which the others must not fail
        log.warning("email not saved", inbound_id=str(email.id), error=type(error).__name__)
        log.debug("email not saved", exc_info=error)
        return {"status": int(HTTPStatus.INTERNAL_SERVER_ERROR)}
