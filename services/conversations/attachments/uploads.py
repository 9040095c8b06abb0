"""Rows of uploads: begun before the first byte is read, finished when all bytes are stored, deleted if they are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.attachments.file_types import PICTURES, FileType
from services.conversations.errors import IdempotencyKeyReused, RateLimited, UploadsFull
from services.conversations.rules import FileState, Side, ThumbnailState
from services.conversations.settings import StoreSettings
from shared.auth.principal import CallerMerged
from shared.database.engine import Driver
from shared.problems import Unauthenticated

MAX_OPEN = 10  # uploads of a user at the same time
LEAST_BYTES = 64 * 1024  # that a file counts for, so that the limit also bounds the number of files
UNSENT_HOURS = 24  # until a file that was not sent is deleted
DAY = 24 * 3600  # seconds


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is about to be uploaded; `size` is what the request declares, or the largest allowed."""

    uploader_id: str
    side: Side
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The file of an upload, which the store has. With `scanned`, it waits for a scan."""

    name: str
    size: int
    sha256: str
    type: FileType
    scanned: bool


async def begin_upload(session: AsyncSession, upload: Upload, bytes_per_day: int) -> UUID:
    """Add the row of an upload; return its id. Commit before the file is stored.

    `bytes_per_day` limits customers; 0 means no limit. Raises `RateLimited`, `UploadsFull`, `Unauthenticated` for a
    deleted user, or `CallerMerged`.
    """
    # Serializes a user's uploads, so that together they stay within the limit.
    values: dict[str, Any] = {"user": upload.uploader_id, "least": LEAST_BYTES}
    user = (await session.execute(_LOCK_USER, values)).one_or_none()
    if user is not None and user.merged_into is not None:  # just now
        raise CallerMerged(upload.uploader_id, user.merged_into)
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("This user was deleted.")
    used, seconds, uploading = (await session.execute(_USED, values)).one()
    if uploading >= MAX_OPEN:
        raise UploadsFull(f"{MAX_OPEN} of your files are being uploaded. Wait until one is complete.")
    limited = upload.side is Side.CUSTOMER and bytes_per_day > 0
    if limited and used + max(upload.size, LEAST_BYTES) > bytes_per_day:
        limit = f"{bytes_per_day / 2**20:g} MiB of files per day"
        raise RateLimited(f"Rate limit exceeded: {limit}. Try again in {seconds} seconds.", seconds)
    values |= {"side": upload.side, "name": upload.name, "size": upload.size}
    attachment_id: UUID = (await session.execute(_BEGIN, values)).scalar_one()
    return attachment_id


async def finish_upload(
    connection: Driver, attachment_id: UUID, stored: Stored, key: str | None
) -> tuple[Mapping[str, Any], bool]:
    """Record that an upload is complete; return its row, or that of an earlier upload with this idempotency key.

    The second value is whether it is a replay, whose own row is deleted. Raises `IdempotencyKeyReused` if the earlier
    file is another one, `Unauthenticated` if the user was deleted meanwhile.
    """
    is_picture = stored.type.content_type in PICTURES
    state = FileState.SCANNING if stored.scanned else FileState.READY
    thumbnail = ThumbnailState.WAITING if is_picture else ThumbnailState.NONE
    values = (attachment_id, stored.name, state, stored.size, stored.sha256, *stored.type, thumbnail)
    try:
        row = await connection.fetchrow(_FINISH, *values, stored.scanned or is_picture, key)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "attachments_idempotency_key":
            raise
        return await _replay(connection, attachment_id, stored, key), True
    if row is None:
        raise Unauthenticated("This user was deleted.")
    return row, False


async def discard_upload(connection: Driver, attachment_id: UUID) -> None:
    """Delete the row of an upload that failed. What the store may have of it is deleted later."""
    await connection.execute(_DISCARD, attachment_id)


async def _replay(connection: Driver, attachment_id: UUID, stored: Stored, key: str | None) -> Mapping[str, Any]:
    row: Mapping[str, Any] | None = await connection.fetchrow(_REPLAYED, attachment_id, key)
    if row is None or (row["sha256"], row["name"]) != (stored.sha256, stored.name):
        raise IdempotencyKeyReused
    return row


async def purge_unsent(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete the oldest uploads that were not sent within a day; return how many."""
    return len((await session.execute(_PURGE_UNSENT, {"hours": UNSENT_HOURS, "size": size})).all())


_COLUMNS = "id, name, size, content_type, sha256, state, width, height, thumbnail"

_LOCK_USER = text("select deleted_at, merged_into from users where id = :user for no key update")
_USED = text(f"""
    select coalesce(sum(greatest(size, :least)), 0)::bigint,
        coalesce(ceil(extract(epoch from min(created_at) + interval '1 day' - clock_timestamp())), {DAY})::int,
        count(*) filter (where state = 'uploading' and created_at > clock_timestamp() - interval '1 hour')
    from attachments
    where uploader_id = :user and created_at > (select clock_timestamp() - interval '1 day')
""")  # noqa: S608 - built from constants
_BEGIN = text(f"""
    insert into attachments (uploader_id, side, name, size, content_type, state)
    values (:user, :side, :name, :size, 'application/octet-stream', '{FileState.UPLOADING}')
    returning id
""")  # noqa: S608 - built from constants
_FINISH = f"""
    update attachments set name = $2, state = $3, size = $4, sha256 = $5, content_type = $6, width = $7, height = $8,
        thumbnail = $9, next_attempt_at = case when $10 then clock_timestamp() end, idempotency_key = $11
    where id = $1 and state = '{FileState.UPLOADING}'
    returning {_COLUMNS}
"""  # noqa: S608 - built from constants
_DISCARD = f"delete from attachments where id = $1 and state = '{FileState.UPLOADING}'"  # noqa: S608 - built from constants
# The second upload's own row goes.
_REPLAYED = f"""
    with own as (delete from attachments where id = $1 returning uploader_id)
    select {_COLUMNS}
    from attachments join own using (uploader_id)
    where idempotency_key = $2
"""  # noqa: S608 - built from constants
_PURGE_UNSENT = text("""
    delete from attachments where id = any(array(
        select id from attachments
        where message_id is null and created_at < (select clock_timestamp() - make_interval(hours => :hours))
        order by created_at limit :size for update skip locked
    ))
    returning id
""")
