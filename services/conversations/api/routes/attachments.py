"""Routes for files: upload one, then send its id with a message; download one, or show its thumbnail."""

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Path, Request, Response
from starlette.responses import StreamingResponse

from services.conversations.api.dependencies import AnyReader, IdempotencyKeyHeader, mark_replay
from services.conversations.api.posting import authorize_sender
from services.conversations.api.schemas.responses import AttachmentOut
from services.conversations.api.state import api_state
from services.conversations.api.uploading import receive_file
from services.conversations.attachments import queries
from services.conversations.attachments.file_store import PICTURE, THUMBNAIL, FileStoreError
from services.conversations.attachments.names import content_disposition
from services.conversations.errors import FileNotReady, IdempotencyKeyReused, RateLimited, UploadsFull
from services.conversations.identity.access import AuthorizedReader
from services.conversations.rules import Side, ThumbnailState
from shared.api.dependencies import require
from shared.api.routing import ApiRouter
from shared.auth.principal import Principal
from shared.http_headers import matches_etag
from shared.problems import (
    Forbidden,
    Invalid,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    Unauthenticated,
    Unavailable,
    problem_responses,
)
from shared.settings import Role

UPLOAD: Final = "/api/v1/attachments"
PICTURE_TYPE: Final = "image/webp"  # of the pictures that are made here

router = ApiRouter(
    prefix="/api/v1",
    tags=["Files"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

# Reading needs another check at each request, because the file may be deleted meanwhile: hence `no-cache`.
_FILE_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "Upload",
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": _BINARY,
        },
    }
}
_FILE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {"application/octet-stream": _BINARY}}
}
_PICTURE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture", "content": {PICTURE_TYPE: _BINARY}}
}

AttachmentId = Annotated[UUID, Path(description="The file's id.")]


@router.post(
    "/attachments",
    summary="Upload a file",
    status_code=201,
    openapi_extra=_REQUEST,
    responses=problem_responses(
        Invalid, IdempotencyKeyReused, RateLimited, UploadsFull, PayloadTooLarge, RequestTimeout
    ),
)
async def upload_attachment(
    request: Request,
    response: Response,
    caller: Annotated[Principal, Depends(require(Role.CUSTOMER, Role.ADMIN))],
    key: IdempotencyKeyHeader = None,
) -> AttachmentOut:
    """Upload a file: as the field `file` of a form, or as the body, with its name in `Content-Disposition`.

    Then send its id in `attachments` with a message. Until then only its uploader can read it; after 24 hours it is
    deleted. Its type is what its bytes are, not what its name says.
    """
    await authorize_sender(request, caller)
    row, replayed = await receive_file(request, caller, key)
    mark_replay(response, replayed=replayed)
    return AttachmentOut.of(row)


@router.get(
    "/attachments/{attachment_id}",
    summary="Download a file",
    response_class=Response,
    responses=problem_responses(NotFound, FileNotReady) | _FILE_RESPONSE,
)
async def download_attachment(request: Request, attachment_id: AttachmentId, reading: AnyReader) -> Response:
    """Return a file's bytes, as a download. For the two sides of its conversation; before it is sent, its uploader."""
    return await serve_file(request, reading, attachment_id)


@router.get(
    "/attachments/{attachment_id}/thumbnail",
    summary="Get a thumbnail",
    response_class=Response,
    responses=problem_responses(NotFound, FileNotReady) | _PICTURE_RESPONSE,
)
async def get_thumbnail(request: Request, attachment_id: AttachmentId, reading: AnyReader) -> Response:
    """Return a small picture of a JPEG, PNG, GIF, WebP or AVIF file, if its `thumbnail` is true."""
    return await serve_picture(request, reading, attachment_id, THUMBNAIL)


@router.get(
    "/attachments/{attachment_id}/picture",
    summary="Get a large picture",
    response_class=Response,
    responses=problem_responses(NotFound, FileNotReady) | _PICTURE_RESPONSE,
)
async def get_picture(request: Request, attachment_id: AttachmentId, reading: AnyReader) -> Response:
    """Return a large picture of such a file, to look at. Like the thumbnail it is made anew, without the location."""
    return await serve_picture(request, reading, attachment_id, PICTURE)


async def serve_file(request: Request, reading: AuthorizedReader, attachment_id: UUID) -> Response:
    """Return the response with a file, which browsers save and never show."""
    row = await _load(request, reading, attachment_id)
    headers = {
        **_FILE_HEADERS,
        "Content-Disposition": content_disposition("attachment", row[queries.NAME]),
        "Content-Length": str(row[queries.SIZE]),
        "ETag": f'"{row[queries.SHA256]}"',
    }
    return await _stream(request, attachment_id, "", row[queries.CONTENT_TYPE], headers)


async def serve_picture(request: Request, reading: AuthorizedReader, attachment_id: UUID, suffix: str) -> Response:
    """Return the response with a picture that was made from a file, which browsers show."""
    row = await _load(request, reading, attachment_id)
    if row[queries.THUMBNAIL_STATE] != ThumbnailState.READY:
        raise NotFound("The file has no thumbnail.")
    headers = {**_FILE_HEADERS, "Content-Disposition": "inline", "ETag": f'"{row[queries.SHA256]}{suffix}"'}
    return await _stream(request, attachment_id, suffix, PICTURE_TYPE, headers)


async def _load(request: Request, reading: AuthorizedReader, attachment_id: UUID) -> Any:
    """Return the row of a file that the caller may read. For an admin it is a read of its conversation."""
    caller = reading.principal
    row = await queries.load_attachment(reading, attachment_id, caller.id, Side(caller.role))
    if caller.role is Role.ADMIN and row[queries.CONVERSATION_ID] is not None:
        api_state(request).reads.note(caller.id, row[queries.CONVERSATION_ID])
    return row


async def _stream(
    request: Request, attachment_id: UUID, suffix: str, content_type: str, headers: Mapping[str, str]
) -> Response:
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        kept = {name: value for name, value in headers.items() if name != "Content-Length"}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=content_type)
    try:
        chunks: AsyncIterator[Any] = await api_state(request).files.read(attachment_id, suffix)
    except FileNotFoundError:
        raise NotFound("The file is no longer there.") from None
    except FileStoreError:
        raise Unavailable("The file store is unavailable. Try again.") from None
    response = StreamingResponse(chunks, headers=headers)
    response.headers["Content-Type"] = content_type  # Starlette would add a charset to text
    return response
