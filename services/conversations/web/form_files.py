"""Files in forms, for pages without scripts: stored before the form is handled, and kept when it comes back."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from services.conversations.api.schemas.responses import AttachmentOut
from services.conversations.api.state import api_state
from services.conversations.api.uploading import CHUNK, save_file
from services.conversations.attachments.names import safe_name
from services.conversations.attachments.queries import list_unsent
from services.conversations.attachments.uploads import Upload
from services.conversations.errors import RateLimited, UploadsFull
from services.conversations.rules import ATTACHMENT_LIMIT, Side
from services.conversations.web.auth import FILES, PageContext
from services.conversations.web.forms import ATTACHMENTS, Form, Translate, read_form
from shared.database.engine import Driver
from shared.problems import Invalid, PayloadTooLarge, Unavailable

B = TypeVar("B", bound=BaseModel)


async def with_files(request: Request, kind: type[B], page_context: PageContext, form: Form[B]) -> Form[B]:
    """Store the files of a valid form, and return the form with their ids, or with an error."""
    ids, error = await _store_files(request, page_context, form.key, form.gettext)
    stored = await read_form(request, kind, form.gettext, ids)
    return replace(stored, key=form.key) if error is None else stored.with_error(ATTACHMENTS, error)


async def _store_files(
    request: Request, page_context: PageContext, key: str, gettext: Translate
) -> tuple[list[UUID], str | None]:
    """Store the files of a submitted form; return their ids, and what is wrong with the first that was not stored.

    Their keys are made from the form's: if it is submitted again, the same files get the same ids.
    """
    ids: list[UUID] = []
    caller, state = page_context.principal, api_state(request)
    files = [file for file in (await request.form()).getlist(FILES) if isinstance(file, UploadFile) and file.filename]
    for number, file in enumerate(files[: ATTACHMENT_LIMIT + 1]):
        upload = Upload(caller.id, Side(caller.role), safe_name(file.filename), file.size or 0)
        try:
            row, _ = await save_file(state, upload, _chunks(file), f"{key}:{number}")
        except (Invalid, PayloadTooLarge, RateLimited, UploadsFull, Unavailable) as problem:
            return ids, _text(problem, gettext)
        ids.append(row["id"])
    return ids, None


async def kept_files(connection: Driver, page_context: PageContext, form: Form[Any]) -> Sequence[AttachmentOut]:
    """Return the uploaded files of a form that comes back, which can be sent with its next submit."""
    if not form.attachments:
        return ()
    caller = page_context.principal
    rows = await list_unsent(connection, form.attachments, caller.id, Side(caller.role))
    return [AttachmentOut.of(row) for row in rows]


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK):
        yield chunk


def _text(problem: Invalid | PayloadTooLarge | RateLimited | UploadsFull | Unavailable, gettext: Translate) -> str:
    if isinstance(problem, Invalid):
        return gettext("The file is empty.")
    if isinstance(problem, PayloadTooLarge):
        return gettext("The file is too large.")
    if isinstance(problem, RateLimited):
        return gettext("The limit of files for today is reached. Try again tomorrow.")
    return gettext("The file could not be stored. Try again.")
