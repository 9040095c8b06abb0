"""The page on which admins write their canned replies."""

from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.conversations.api.schemas.desk import WriteCannedReply
from services.conversations.desk import canned_replies
from services.conversations.errors import ShortcutTaken
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext
from services.conversations.web.forms import Form, new_form, read_form
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from shared.api.dependencies import Cursor, DbSession
from shared.database.transactions import driver_connection
from shared.problems import NotFound

PAGE = 50  # replies on a page
HOME = f"{ADMIN_ROOT}canned-replies/"

router = APIRouter(prefix=HOME.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def list_canned_replies(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    cursor: Cursor = None,
    done: Literal["saved", "deleted"] | None = None,
) -> Response:
    """Show all canned replies, each in a form, and a form for a new one; and what was done to one of them."""
    return await _page(request, page_context, session, new_form(), cursor=cursor, done=done)


@router.post("/")
async def create(request: Request, page_context: AdminSubmission, session: DbSession) -> Response:
    """Add a canned reply. A second submit of the same form adds nothing."""
    form = await read_form(request, WriteCannedReply, pages_of(request).reader(request, page_context).gettext)
    if form.body is not None:
        try:
            async with session.begin_nested():  # the page is read in the same transaction
                await canned_replies.create_canned_reply(session, form.body.fields, page_context.principal.id)
            return redirect(f"{HOME}?done=saved#notice")
        except ShortcutTaken:
            if await canned_replies.is_saved(session, form.body.fields):
                return redirect(f"{HOME}?done=saved#notice")
            form = _with_taken_shortcut(form)
    return await _page(request, page_context, session, form)


@router.get("/{canned_reply_id}/")
@router.get("/{canned_reply_id}/delete/")
async def show_all(_: Annotated[UUID, Path(alias="canned_reply_id")]) -> Response:
    """Redirect to all canned replies, for admins who had to sign in before a POST."""
    return redirect(HOME)


@router.post("/{canned_reply_id}/")
async def change(
    canned_reply_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Replace a canned reply. If it was deleted meanwhile, show what was typed in the form for a new one."""
    form = await read_form(request, WriteCannedReply, pages_of(request).reader(request, page_context).gettext)
    if form.body is not None:
        try:
            async with session.begin_nested():
                await canned_replies.replace_canned_reply(
                    session, canned_reply_id, form.body.fields, page_context.principal.id
                )
            return redirect(f"{HOME}?done=saved#notice")
        except ShortcutTaken:
            form = _with_taken_shortcut(form)
        except NotFound:
            error = form.gettext("This canned reply was deleted meanwhile. To keep your text, add it again.")
            return await _page(request, page_context, session, form.with_error("shortcut", error))
    return await _page(request, page_context, session, form, edited=canned_reply_id)


@router.post("/{canned_reply_id}/delete/")
async def delete(canned_reply_id: UUID, page_context: AdminSubmission, session: DbSession) -> Response:
    """Delete a canned reply. A second submit redirects like the first."""
    with suppress(NotFound):
        await canned_replies.delete_canned_reply(session, canned_reply_id, page_context.principal.id)
    return redirect(f"{HOME}?done=deleted#notice")


def _with_taken_shortcut(form: Form[WriteCannedReply]) -> Form[WriteCannedReply]:
    error = form.gettext("Another canned reply in this language has this shortcut.")
    return replace(form, body=None, errors={"shortcut": error})


async def _page(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    form: Form[WriteCannedReply],
    *,
    edited: UUID | None = None,
    cursor: str | None = None,
    done: str | None = None,
) -> Response:
    replies, next_cursor = await canned_replies.list_canned_replies(await driver_connection(session), cursor, PAGE)
    return pages_of(request).render(
        request,
        "canned_replies.html",
        page_context,
        status=422 if form.errors else 200,
        replies=replies,
        next_cursor=next_cursor,
        cursor=cursor,
        done=done,
        form=form,
        edited=edited,
        variables=canned_replies.VARIABLES,
    )
