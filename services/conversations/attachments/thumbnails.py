"""Give files their thumbnails: claim a row, make the pictures, store them, record it."""

from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.attachments.changes import announce_change
from services.conversations.attachments.file_store import PICTURE, THUMBNAIL, FileStore, FileStoreError, chunked
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.pictures import Pictures
from services.conversations.rules import FileState, ThumbnailState
from shared.database.transactions import SessionFactory, transaction

LEASE = 90  # seconds; longer than a file may take
MAX_ATTEMPTS = 5  # until a file stays without a thumbnail: each attempt ended with its process

log = structlog.get_logger()


async def make_next_thumbnail(sessions: SessionFactory, files: FileStore, worker: PictureProcess) -> str | None:
    """Make the thumbnail of the file that waits longest; return what became of it, or None if none waits."""
    async with transaction(sessions) as session:
        claimed = (await session.execute(_CLAIM, {"lease": LEASE})).one_or_none()
    if claimed is None:
        return None
    attachment_id, attempts = claimed
    pictures = None
    if attempts <= MAX_ATTEMPTS:
        try:
            pictures = await worker.make(await files.read_all(attachment_id))
            if pictures is not None:
                await files.write(attachment_id, chunked(pictures.thumbnail), THUMBNAIL)
                await files.write(attachment_id, chunked(pictures.picture), PICTURE)
        except FileNotFoundError:
            log.warning("file not found in the store", attachment_id=str(attachment_id))
        except FileStoreError as error:
            log.warning("file store unavailable", error=str(error))
            async with transaction(sessions) as session:
                await session.execute(_POSTPONE, {"id": attachment_id})
            return "postponed"
    async with transaction(sessions) as session:
        await _record(session, attachment_id, pictures)
    outcome = "made" if pictures else "none"
    log.info("thumbnail", attachment_id=str(attachment_id), outcome=outcome)
    return outcome


async def _record(session: AsyncSession, attachment_id: Any, pictures: Pictures | None) -> None:
    values: dict[str, Any] = {"id": attachment_id, "thumbnail": ThumbnailState.NONE, "width": None, "height": None}
    if pictures is not None:
        values |= {"thumbnail": ThumbnailState.READY, "width": pictures.width, "height": pictures.height}
    row = (await session.execute(_RECORD, values)).one_or_none()
    if row is None:  # deleted meanwhile, and its objects perhaps before these were written
        await session.execute(_DELETE_OBJECTS, {"id": attachment_id})
    elif pictures is not None:
        await announce_change(session, row.conversation_id)


_CLAIM = text(f"""
    update attachments
    set attempts = attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => :lease)
    where id = (
        select id from attachments
        where next_attempt_at <= clock_timestamp() and state = '{FileState.READY}'
            and thumbnail = '{ThumbnailState.WAITING}'
        order by next_attempt_at limit 1 for update skip locked
    )
    returning id, attempts
""")  # noqa: S608 - built from constants
# Until the claim ends. An attempt while the store is away does not count.
_POSTPONE = text("update attachments set attempts = attempts - 1 where id = :id")
_RECORD = text("""
    update attachments set thumbnail = :thumbnail, next_attempt_at = null,
        width = coalesce(:width, width), height = coalesce(:height, height)
    where id = :id
    returning conversation_id
""")
_DELETE_OBJECTS = text("""
    insert into file_deletions (id, due_at) values (:id, clock_timestamp())
    on conflict (id) do update set due_at = excluded.due_at
""")
