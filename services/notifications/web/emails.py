"""The page on which a signed-in customer turns emails off and on again. It needs no script.

Customers' pages of the conversations service, where they see that emails are off, post to it.
"""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.dependencies import CurrentSettings
from services.notifications.delivery.muting import Wish, read_muting, set_muting
from services.notifications.delivery.suppression import is_suppressed
from services.notifications.models import Notification, Person
from services.notifications.web.errors import PageRoute
from services.notifications.web.session import authenticate
from services.notifications.web.unsubscribing import unsubscribe_page
from shared.api.dependencies import DbSession
from shared.problems import Invalid, NotFound, Unauthenticated
from shared.settings import Role

PATH = "/notifications/emails"
MESSAGES = "/dashboard/messages/"  # of the conversations service
ENTRY = f"{MESSAGES}emails/"

router = APIRouter(route_class=PageRoute, include_in_schema=False)

About = Annotated[UUID | None, Query()]
Locale = Annotated[str | None, Query(max_length=35)]
Flag = Annotated[bool, Query()]


@router.get(PATH)
async def show_choice(
    request: Request,
    session: DbSession,
    settings: CurrentSettings,
    conversation_id: About = None,
    locale: Locale = None,
    *,
    fresh: Flag = False,
    lost: Flag = False,
) -> Response:
    """Show whether there are emails, about a conversation or at all, with a button for each other choice."""
    try:
        token = await authenticate(request, session, Role.CUSTOMER)
    except Unauthenticated:
        if fresh:
            raise
        return _redirect(ENTRY, conversation_id)
    user_id = token.principal.id
    await _check_own(session, user_id, conversation_id)
    person = await session.get(Person, user_id)
    page = unsubscribe_page(
        request,
        settings,
        locale or (person.locale if person else None),
        await read_muting(session, user_id, conversation_id),
        f"{MESSAGES}{conversation_id}/" if conversation_id else MESSAGES,
        fields={"csrf_token": token.csrf},
        suppressed=await is_suppressed(session, user_id),
        is_about_one=conversation_id is not None,
        lost=lost,
    )
    page.headers["Referrer-Policy"] = "same-origin"  # else browsers send the form with the origin `null`
    return page


@router.post(PATH)
async def choose(
    request: Request, session: DbSession, conversation_id: About = None, locale: Locale = None
) -> Response:
    """Stop emails or turn them on again, and show the page."""
    try:
        token = await authenticate(request, session, Role.CUSTOMER)
    except Unauthenticated:
        return _redirect(ENTRY, conversation_id, lost="true")
    await _check_own(session, token.principal.id, conversation_id)
    wish = str((await request.form()).get("emails"))
    if wish not in set(Wish) or (wish == Wish.CONVERSATION and conversation_id is None):
        raise Invalid("Send all, none, or with a conversation `conversation`.", ["body", "emails"])
    await set_muting(session, token.principal.id, conversation_id, Wish(wish))
    return _redirect(PATH, conversation_id, **({"locale": locale} if locale else {}))


async def _check_own(session: AsyncSession, user_id: str, conversation_id: UUID | None) -> None:
    """Raise `NotFound` unless the customer was notified about the conversation: no other one concerns them."""
    own = (Notification.user_id == user_id) & (Notification.conversation_id == conversation_id)
    if conversation_id is not None and await session.scalar(select(Notification.id).where(own).limit(1)) is None:
        raise NotFound("There is no such conversation.")


def _redirect(path: str, conversation_id: UUID | None, **more: str) -> Response:
    query = urlencode({**({"conversation_id": str(conversation_id)} if conversation_id else {}), **more})
    return RedirectResponse(f"{path}?{query}" if query else path, HTTPStatus.SEE_OTHER)
