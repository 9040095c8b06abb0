"""The store of files: a folder on a disk, or a bucket of an S3-compatible server.

Each object belongs to one attachment and is named by its id: a name is never used again, and nobody typed it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID, uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from services.conversations.settings import FileSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

THUMBNAIL, PICTURE = ".thumbnail", ".picture"
SUFFIXES = ("", THUMBNAIL, PICTURE)  # of an attachment's objects: the file itself, and the pictures made from it
READ_CHUNK = 256 * 1024  # bytes
SLICE = 2**21  # bytes of a slice
SMALL = 5 * 1024 * 1024  # bytes; a larger file is written in parts
TIMEOUT = timedelta(seconds=30)  # of a request to a bucket


class FileStoreError(Exception):
    """The store cannot be used. Its text contains no secret."""


def object_name(attachment_id: UUID, suffix: str = "") -> str:
    """Return the name of an attachment's object. The folders keep directories small; times would fill one of them."""
    return f"{attachment_id.hex[-2:]}/{attachment_id}{suffix}"


def attachment_of(name: str) -> UUID | None:
    """Return the id of the attachment that an object belongs to; None for a name that is not ours."""
    try:
        attachment_id = UUID(name.partition("/")[2].partition("#")[0].partition(".")[0])
    except ValueError:
        return None
    plain = name.partition("#")[0]
    return attachment_id if any(plain == object_name(attachment_id, suffix) for suffix in SUFFIXES) else None


class FileStore:
    """Writes, reads and deletes objects."""

    def __init__(self, url: str, access_key: str | None = None, secret_key: str | None = None) -> None:
        """Connect to nothing yet. A folder is created when it is first written to."""
        parts = urlsplit(url)
        self.folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        self._store: ObjectStore | None = None
        self._open = self._open_folder if self.folder else lambda: _open_bucket(url, access_key, secret_key)

    async def write(self, attachment_id: UUID, chunks: AsyncIterator[bytes], suffix: str = "") -> None:
        """Write an object. It appears when it is complete. Errors of `chunks` pass through."""
        source = _Source(chunks)
        start = await source.read(SMALL)
        name = object_name(attachment_id, suffix)
        with _store_errors(source):
            if source.ended:
                await obstore.put_async(self._objects, name, start, use_multipart=False)
            else:  # one part at a time: each further one would be in memory, too
                await obstore.put_async(self._objects, name, source.all_after(start), max_concurrency=1)
            if self.folder is not None:
                await asyncio.to_thread(_sync, self.folder / name)

    async def read(self, attachment_id: UUID, suffix: str = "") -> AsyncIterator[bytes]:
        """Return an object's bytes in chunks. Raises `FileNotFoundError`."""
        with _store_errors():
            found = await obstore.get_async(self._objects, object_name(attachment_id, suffix))
        return _without_store_errors(found.stream(min_chunk_size=READ_CHUNK))

    async def read_slices(self, attachment_id: UUID, size: int) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes, each slice by a request of its own: no request waits for a slow reader.

        Raises `FileNotFoundError`.
        """
        for start in range(0, size, SLICE):
            with _store_errors():
                found = await obstore.get_range_async(
                    self._objects, object_name(attachment_id), start=start, length=min(SLICE, size - start)
                )
            yield bytes(found)

    async def read_all(self, attachment_id: UUID, suffix: str = "") -> bytes:
        """Return all of an object's bytes. Raises `FileNotFoundError`."""
        with _store_errors():
            found = await obstore.get_async(self._objects, object_name(attachment_id, suffix))
            return bytes(await found.bytes_async())

    async def delete(self, attachment_id: UUID) -> None:
        """Delete an attachment's objects, if there are any, and the parts of those that were not completed."""
        with _store_errors():
            for suffix in SUFFIXES:
                with suppress(FileNotFoundError):
                    await obstore.delete_async(self._objects, object_name(attachment_id, suffix))
            await self.delete_parts(attachment_id)

    async def delete_parts(self, attachment_id: UUID) -> None:
        """Delete the files in a folder that keep the parts of an attachment's objects until these are complete."""
        if self.folder is not None:
            await asyncio.to_thread(_delete_all, self.folder, f"{object_name(attachment_id)}*#*")

    async def names(self) -> AsyncIterator[tuple[str, int, float]]:
        """Yield the name, size and time of every object, and of the unfinished parts in a folder."""
        if self.folder is not None:
            for path in await asyncio.to_thread(lambda: sorted(self.folder.glob("*/*"))):  # type: ignore[union-attr] # not None
                try:
                    stat = path.stat()
                except FileNotFoundError:  # deleted, or an upload completed, since it was listed
                    continue
                yield path.relative_to(self.folder).as_posix(), stat.st_size, stat.st_mtime
            return
        pages = await self._in_thread(lambda: obstore.list(self._objects))
        while page := await self._in_thread(lambda: next(pages, None)):
            for found in page:
                yield found["path"], found["size"], found["last_modified"].timestamp()

    async def probe(self) -> None:
        """Write, read and delete an object, as a check of the store. Raises `FileStoreError`."""
        try:
            read = await self._in_thread(lambda: _write_read_and_delete(self._objects, f".probe-{uuid4()}", b"chats"))
        except FileNotFoundError:
            raise FileStoreError("what was written is not there") from None
        if read != b"chats":
            raise FileStoreError("it returned other bytes than were written")

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Call synchronous functions of the store, for what commands need.

        After an asynchronous one, threads of the store may hold objects of Python for a moment longer. If a command
        ends then, they abort its process.
        """
        with _store_errors():
            return await asyncio.to_thread(work)

    @property
    def _objects(self) -> "ObjectStore":
        if self._store is None:
            self._store = self._open()
        return self._store

    def _open_folder(self) -> "ObjectStore":
        return LocalStore(self.folder, mkdir=True)


async def chunked(content: bytes) -> AsyncIterator[bytes]:
    """Yield bytes that are in memory."""
    yield content


def open_files(settings: FileSettings) -> FileStore:
    """Return the file store of the settings."""
    secret = settings.files_secret_key
    return FileStore(settings.files_url, settings.files_access_key, secret.get_secret_value() if secret else None)


class _Source:
    """Chunks of which the first are read ahead. Remembers its error, which the store would wrap in its own."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.ended = False
        self.error: BaseException | None = None

    async def read(self, size: int) -> bytes:
        """Return the next bytes, at least `size` if there are as many."""
        start = bytearray()
        while len(start) < size:
            try:
                start += await anext(self._chunks)
            except StopAsyncIteration:
                self.ended = True
                break
        return bytes(start)

    async def all_after(self, start: bytes) -> AsyncIterator[bytes]:
        """Yield these bytes, then all that follow."""
        yield start
        try:
            async for chunk in self._chunks:
                yield chunk
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def _store_errors(source: _Source | None = None) -> Iterator[None]:
    """Raise the error of the source, or else `FileStoreError` for every error but `FileNotFoundError`."""
    try:
        yield
    except Exception as error:
        if source is not None and source.error is not None:
            raise source.error from None
        if isinstance(error, FileNotFoundError) or not isinstance(error, BaseError | OSError | ValueError):
            raise
        raise FileStoreError(_first_line(error)) from None


async def _without_store_errors(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield chunks. Raises `FileStoreError` if the store fails between them."""
    with _store_errors():
        async for chunk in chunks:
            yield chunk


def _first_line(error: BaseException) -> str:
    """Return the first line of an error, which for a store is long. Its URL has no secret."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _write_read_and_delete(store: "ObjectStore", name: str, content: bytes) -> bytes:
    obstore.put(store, name, content, use_multipart=False)
    read = bytes(obstore.get(store, name).bytes())
    obstore.delete(store, name)
    return read


def _delete_all(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Write a file and its folder to the disk: an upload that was answered must survive a loss of power."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_bucket(url: str, access_key: str | None, secret_key: str | None) -> "ObjectStore":
    parts = urlsplit(url)
    options: dict[str, Any] = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options.setdefault("region", "us-east-1")
    if access_key and secret_key:
        options |= {"access_key_id": access_key, "secret_access_key": secret_key}
    return S3Store(
        parts.netloc,
        prefix=unquote(parts.path).strip("/") or None,
        client_options={
            "allow_http": options.get("endpoint", "").startswith("http://"),
            "timeout": TIMEOUT,
            "connect_timeout": timedelta(seconds=5),
        },
        retry_config={"max_retries": 2, "retry_timeout": TIMEOUT},
        **options,
    )
