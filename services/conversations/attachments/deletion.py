"""Delete the objects of deleted attachments from the file store. Each deletion is a row until it is done."""

from uuid import UUID

import structlog
from sqlalchemy import text

from services.conversations.attachments.file_store import FileStore, FileStoreError
from shared.database.transactions import SessionFactory, fetch_alone, transaction

LEASE = 60  # seconds within which a claimed deletion ends
MAX_PAUSE = 3600  # seconds between the attempts at a deletion that keeps failing

log = structlog.get_logger()


async def delete_files(sessions: SessionFactory, files: FileStore, *, size: int) -> int:
    """Delete the objects of up to `size` attachments; return how many were deleted. Copies share the work."""
    claimed = await fetch_alone(sessions, _CLAIM, size, LEASE)
    done: list[UUID] = []
    for attachment_id, attempts in claimed:
        try:
            await files.delete(attachment_id)
        except FileStoreError as error:
            log.warning("file not deleted, retrying", attachment_id=str(attachment_id), error=str(error))
            async with transaction(sessions) as session:
                pause = min(2**attempts * 10, MAX_PAUSE)
                await session.execute(_POSTPONE, {"id": attachment_id, "pause": pause})
        else:
            done.append(attachment_id)
    if done:
        async with transaction(sessions) as session:
            await session.execute(_DONE, {"ids": done})
    return len(done)


_CLAIM = """
    update file_deletions
    set attempts = least(attempts + 1, 20), due_at = clock_timestamp() + make_interval(secs => $2)
    where id = any(array(
        select id from file_deletions where due_at <= clock_timestamp() order by due_at limit $1
        for update skip locked
    ))
    returning id, attempts
"""
_POSTPONE = text("""
    update file_deletions set due_at = clock_timestamp() + make_interval(secs => :pause) where id = :id
""")
_DONE = text("delete from file_deletions where id = any(cast(:ids as uuid[]))")
