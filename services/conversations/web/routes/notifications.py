"""The way to pages that the notifications service renders: an admin's preferences, a customer's emails."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.web.auth import AdminContext, CustomerContext, PageContext
from services.conversations.web.rendering import ADMIN_ROOT, CUSTOMER_ROOT, PageRoute, pages_of, redirect

PREFERENCES = "/notifications/preferences"

EMAILS = "/notifications/emails"

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get(f"{ADMIN_ROOT}notifications/")
async def show_preferences(
    request: Request, page_context: AdminContext, lost: Annotated[bool, Query()] = False
) -> Response:
    """Ask for sign-in, renew the session's cookie, and redirect to the page."""
    return _lead_to(request, page_context, PREFERENCES, lost=lost)


@router.get(f"{CUSTOMER_ROOT}emails/")
async def show_emails(
    request: Request,
    page_context: CustomerContext,
    conversation_id: Annotated[UUID | None, Query()] = None,
    lost: Annotated[bool, Query()] = False,
) -> Response:
    """Ask for sign-in, renew the session's cookie, and redirect to the page."""
    about = {"conversation_id": str(conversation_id)} if conversation_id else {}
    return _lead_to(request, page_context, EMAILS, lost=lost, **about)


def _lead_to(request: Request, page_context: PageContext, page: str, *, lost: bool, **query: str) -> Response:
    locale = pages_of(request).reader(request, page_context).locale
    query |= {"fresh": "true", "locale": str(locale).replace("_", "-"), **({"lost": "true"} if lost else {})}
    return redirect(f"{page}?{urlencode(query)}")
