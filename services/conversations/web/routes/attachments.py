"""Files at an address of their own, for links in pages and emails: without a session, it leads to the sign-in."""

from fastapi import APIRouter, Request, Response

from services.conversations.api.routes.attachments import AttachmentId, serve_file, serve_picture
from services.conversations.api.state import api_state
from services.conversations.attachments.file_store import PICTURE
from services.conversations.identity.access import AuthorizedReader
from services.conversations.web.auth import read_session
from services.conversations.web.rendering import FILES_ROOT, PageRoute

router = APIRouter(prefix=FILES_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/{attachment_id}")
async def download_file(request: Request, attachment_id: AttachmentId) -> Response:
    """Download a file."""
    return await serve_file(request, await _reader(request), attachment_id)


@router.get("/{attachment_id}/picture")
async def show_picture(request: Request, attachment_id: AttachmentId) -> Response:
    """Show a picture that was made from a file."""
    return await serve_picture(request, await _reader(request), attachment_id, PICTURE)


async def _reader(request: Request) -> AuthorizedReader:
    """Return the reader for a browser's session, whose row the read itself checks."""
    token, state = await read_session(request), api_state(request)
    return AuthorizedReader(token.principal, state.acquire, state.sessions, lambda _: None)
