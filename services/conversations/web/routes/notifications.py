"""The way to the page of an admin's preferences, which the notifications service renders."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.web.auth import AdminContext
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect

PREFERENCES = "/notifications/preferences"

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/notifications/")
async def show_preferences(
    request: Request, page_context: AdminContext, lost: Annotated[bool, Query()] = False
) -> Response:
    """Ask for sign-in, renew the session's cookie, and redirect to the page."""
    locale = pages_of(request).reader(request, page_context).locale
    query = {"fresh": "true", "locale": str(locale).replace("_", "-"), **({"lost": "true"} if lost else {})}
    return redirect(f"{PREFERENCES}?{urlencode(query)}")
