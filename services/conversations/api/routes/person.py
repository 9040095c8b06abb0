"""Routes for the store's backend about a person's data: the export of all of it, and what a deletion would erase."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, NoReturn

import structlog
from fastapi import Depends, Query, Request, Response
from starlette.types import Receive, Scope, Send

from services.conversations.api.dependencies import PathId
from services.conversations.api.routes.store import Store
from services.conversations.api.schemas.store import ErasurePreviewOut
from services.conversations.api.state import api_state
from services.conversations.attachments.file_store import FileStoreError
from services.conversations.attachments.names import content_disposition
from services.conversations.audit.recording import Act, record
from services.conversations.messaging.merged_ids import finish_merges
from services.conversations.privacy.archive import Write
from services.conversations.privacy.erasure import preview_erasure
from services.conversations.privacy.export import Sources, prepare_export
from services.conversations.privacy.notifications import NotificationsUnavailable
from services.conversations.privacy.queries import Interrupted
from services.conversations.rules import ActorRole, AuditAction
from shared.api.dependencies import DbSession, require
from shared.api.routing import ApiRouter
from shared.database.transactions import request_transaction
from shared.problems import Forbidden, Invalid, NotFound, Problem, Unauthenticated, Unavailable, problem_responses
from shared.process.running import ResponseCut
from shared.settings import Role

ARCHIVE_TYPE: Final = "application/zip"

router = ApiRouter(
    prefix="/api/v1/store",
    tags=["Users and orders"],
    dependencies=[Depends(require(Role.STORE))],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The archive. It has no length beforehand.",
        "content": {ARCHIVE_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}

log = structlog.get_logger()


async def _hold_place(request: Request) -> AsyncIterator[None]:
    """Hold one of this process's places for exports until the response is sent. Raises `Unavailable` without one."""
    places = api_state(request).export_places
    if places.locked():
        raise Unavailable("Other exports are under way. Try again later.")
    async with places:
        yield


@router.get(
    "/users/{user_id}/export",
    summary="Export a person's data",
    dependencies=[Depends(_hold_place)],
    response_class=Response,
    responses={**problem_responses(NotFound, Unavailable, NotificationsUnavailable), **_ARCHIVE},
)
async def export_user(
    user_id: PathId,
    request: Request,
    caller: Store,
    internal: Annotated[
        bool, Query(description="With the internal notes and labels in the person's conversations.")
    ] = False,
) -> Response:
    """Return everything of a person as one ZIP archive: JSON for programs, pages to read, and all files.

    The archive is made while it is sent. If that fails, or the person is merged or erased meanwhile, the response is
    503 if nothing was sent yet; else the connection is cut, and what has arrived is no valid archive. Without the
    notifications service nothing is exported: 503, as while two others are made.
    """
    state = api_state(request)
    await finish_merges(state.sessions, user_id)  # else what has not moved yet would be missing
    sources = Sources(state.acquire, state.files, state.notifications, state.settings)
    export = await prepare_export(sources, user_id, internal=internal)
    headers = {
        "Content-Disposition": content_disposition("attachment", export.file_name),
        "Cache-Control": "no-store",
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=ARCHIVE_TYPE)
    async with request_transaction(state.sessions) as session:
        act = Act(
            AuditAction.USER_EXPORTED, caller.id, target_id=user_id, data={"internal": internal}, role=ActorRole.STORE
        )
        await record(session, act)
    return _Streamed(export.write, headers)


@router.get(
    "/users/{user_id}/erasure-preview", summary="Preview a user's erasure", responses=problem_responses(NotFound)
)
async def preview_user_erasure(
    user_id: PathId,
    request: Request,
    session: DbSession,
    content: Annotated[bool, Query(description="As in the deletion: with a customer's conversations.")] = False,
) -> ErasurePreviewOut:
    """Return what deleting a user would erase, and what it would keep. It changes nothing.

    The notifications service follows: it erases address and unsent emails, and what it has of deleted conversations.
    """
    await finish_merges(api_state(request).sessions, user_id)
    preview = await preview_erasure(session, user_id, content=content)
    return ErasurePreviewOut(user_id, content, preview.erased, preview.kept)


class _Streamed(Response):
    """A response whose body is written as it is sent, at the pace of its client.

    When the client goes away, writing ends at once. When writing fails, the response is an error, or the connection is
    cut if a part has been sent.
    """

    media_type = ARCHIVE_TYPE

    def __init__(self, produce: Callable[[Write], Awaitable[None]], headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["Content-Length"]
        self._produce = produce

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        has_started = False

        async def write(chunk: bytes) -> None:
            nonlocal has_started
            if not has_started:
                has_started = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        async def until_client_goes() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        producing = asyncio.ensure_future(self._produce(write))
        listening = asyncio.create_task(until_client_goes())
        try:
            await asyncio.wait({producing, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (producing, listening):
                task.cancel()
            await asyncio.gather(producing, listening, return_exceptions=True)
        if producing.cancelled():
            log.info("export ended, the client is gone")
            return
        if (error := producing.exception()) is not None:
            _end_early(error, is_cut=has_started)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _end_early(error: BaseException, *, is_cut: bool) -> NoReturn:
    """Log why an export ended, and raise what becomes of its response."""
    log.warning("export ended early", error=type(error).__name__, reason=str(error), is_cut=is_cut)
    if not isinstance(error, Interrupted | Problem | FileStoreError):
        raise error
    if is_cut:
        raise ResponseCut from error
    if isinstance(error, Problem):
        raise error
    what = "The person's data changed" if isinstance(error, Interrupted) else "A file could not be read"
    raise Unavailable(f"{what} during the export. Try again.") from error
