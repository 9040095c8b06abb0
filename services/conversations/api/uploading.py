"""Receive files: from a form or as a raw body, into the store, without holding one in memory."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from services.conversations.api.state import ApiState, api_state
from services.conversations.attachments import uploads
from services.conversations.attachments.file_store import FileStoreError
from services.conversations.attachments.file_types import HEAD_BYTES, detect
from services.conversations.attachments.names import name_in_header, safe_name
from services.conversations.attachments.uploads import Stored, Upload
from services.conversations.rules import Side
from shared.api.streamed_body import declared_size, received, refused_after_body
from shared.auth.principal import Principal
from shared.database.transactions import request_connection, request_transaction
from shared.problems import Invalid, PayloadTooLarge, Unavailable

FORM_BYTES: Final = 64 * 1024  # of a form around its file
CHUNK: Final = 256 * 1024

log = structlog.get_logger()


async def receive_file(request: Request, caller: Principal, key: str | None) -> tuple[Mapping[str, Any], bool]:
    """Store the file in an authorized caller's request; return its row, and whether it is a replay.

    Its row is there before the body is read, and is deleted if anything fails.
    """
    async with refused_after_body(request):
        return await _receive_file(request, caller, key)


async def _receive_file(request: Request, caller: Principal, key: str | None) -> tuple[Mapping[str, Any], bool]:
    state = api_state(request)
    limit = state.settings.attachment_max_bytes
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    body_limit = limit + FORM_BYTES if form else limit
    size = declared_size(request)
    size = limit if size is None else size
    if size > body_limit:
        raise too_large(limit)
    body = received(request, body_limit, too_large(limit))
    if not form:
        name = safe_name(name_in_header(request.headers.get("content-disposition")))
        return await save_file(state, Upload(caller.id, Side(caller.role), name, min(size, limit)), body, key)
    # The name is known when the form is read, so the row begins without it.
    upload = Upload(caller.id, Side(caller.role), "", min(size, limit))
    return await save_file(state, upload, _FormFile(request, body, limit), key)


async def save_file(
    state: ApiState, upload: Upload, chunks: "AsyncIterator[bytes] | _FormFile", key: str | None
) -> tuple[Mapping[str, Any], bool]:
    """Store a file; return its row, and whether it is a replay of an earlier request with this key.

    Raises `PayloadTooLarge` if its declared size is.
    """
    if upload.size > state.settings.attachment_max_bytes:
        raise too_large(state.settings.attachment_max_bytes)
    async with request_transaction(state.sessions) as session:
        attachment_id = await uploads.begin_upload(session, upload, state.settings.limit_attachment_bytes_per_day)
    try:
        stored = await _store(state, attachment_id, upload.name, chunks)
        async with request_connection(state.acquire) as connection:
            row, replayed = await uploads.finish_upload(connection, attachment_id, stored, key)
    except BaseException:
        # Also when the client is gone. If this fails, too, the row is deleted after a day.
        async with request_connection(state.acquire) as connection:
            await uploads.discard_upload(connection, attachment_id)
        raise
    log.info("file uploaded", attachment_id=str(row["id"]), size=row["size"], replayed=replayed)
    return row, replayed


async def _store(state: ApiState, attachment_id: UUID, name: str, chunks: "AsyncIterator[bytes] | _FormFile") -> Stored:
    """Write a file to the store, and find out what it is. Raises `Invalid` for an empty one."""
    if isinstance(chunks, _FormFile):
        name = await chunks.open()
    measured = _Measured(chunks)
    try:
        await state.files.write(attachment_id, measured)
    except FileStoreError as error:
        log.warning("file store unavailable", error=str(error))
        raise Unavailable("The file store is unavailable. Try again.") from None
    if not measured.size:
        raise Invalid("the file is empty", ("body", "file"), "empty_file")
    detected = await asyncio.to_thread(detect, bytes(measured.head))
    scanned = state.settings.scan_url is not None
    return Stored(name, measured.size, measured.sha256.hexdigest(), detected, scanned=scanned)


class _Measured:
    """Passes chunks on, and notes their size, their hash and the first of them."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.head = bytearray()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self.size += len(chunk)
        self.sha256.update(chunk)
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        return chunk


class _FormFile:
    """The file in a form. Reading the form stores its larger part in a temporary file."""

    def __init__(self, request: Request, body: AsyncIterator[bytes], limit: int) -> None:
        self._request, self._body, self._limit = request, body, limit
        self._file: UploadFile | None = None
        self._error: Exception | None = None

    async def open(self) -> str:
        """Read the form; return the file's name."""
        try:
            form = await MultiPartParser(
                self._request.headers,
                self._chunks(),
                max_files=1,
                max_fields=10,
                max_part_size=FORM_BYTES,
            ).parse()
        except MultiPartException as error:
            unreadable = Invalid(f"the form cannot be read: {error.message}", ("body",))
            raise self._error or unreadable from None
        except UnicodeError:
            raise self._error or Invalid("the form cannot be read in its charset", ("body",)) from None
        file = form.get("file")
        if not isinstance(file, UploadFile):
            await form.close()
            raise Invalid("send one file, in the field file", ("body", "file"), "missing")
        if (file.size or 0) > self._limit:
            await form.close()
            raise too_large(self._limit)
        self._file = file
        return safe_name(file.filename)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. After this error the parser closes its files, which it does not after others."""
        try:
            async for chunk in self._body:
                yield chunk
        except Exception as error:  # noqa: BLE001 - raised again, by `open`
            self._error = error
            raise MultiPartException("") from None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        assert self._file is not None  # noqa: S101 - it was opened
        if chunk := await self._file.read(CHUNK):
            return chunk
        await self._file.close()
        raise StopAsyncIteration


def too_large(limit: int) -> PayloadTooLarge:
    """Return the error of a file that is larger than a limit."""
    return PayloadTooLarge(f"The file is larger than {limit / 2**20:g} MiB, the most that is accepted.")
