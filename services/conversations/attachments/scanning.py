"""Hold files back until clamd has scanned them."""

import structlog
from sqlalchemy import text

from services.conversations.attachments.changes import announce_change
from services.conversations.attachments.clamd import ScanError, scan
from services.conversations.attachments.file_store import FileStore, FileStoreError
from services.conversations.rules import FileState, ThumbnailState
from shared.database.transactions import SessionFactory, fetch_alone, transaction

LEASE = 120  # seconds within which a claimed file is scanned
MAX_PAUSE = 300  # seconds between attempts, while clamd is away

log = structlog.get_logger()


async def scan_next_file(sessions: SessionFactory, files: FileStore, url: str | None) -> str | None:
    """Scan the file that waits longest; return what became of it, or None if none waits.

    Without a URL, files that waited for a scan when there was one are ready.
    """
    claimed = await fetch_alone(sessions, _CLAIM, LEASE)
    if not claimed:
        return None
    [(attachment_id, attempts)] = claimed
    try:
        found = None if url is None else await scan(url, await files.read(attachment_id))
    except FileNotFoundError:
        found = "a file that is not in the store"
    except (ScanError, FileStoreError) as error:
        log.warning("file not scanned, retrying", attachment_id=str(attachment_id), error=str(error))
        async with transaction(sessions) as session:
            await session.execute(_POSTPONE, {"id": attachment_id, "pause": min(2**attempts, MAX_PAUSE)})
        return "postponed"
    state = FileState.READY if found is None else FileState.BLOCKED
    async with transaction(sessions) as session:
        row = (await session.execute(_RECORD, {"id": attachment_id, "state": state})).one_or_none()
        if row is not None:
            await announce_change(session, row.conversation_id)
    log.info("file scanned", attachment_id=str(attachment_id), state=state, found=found)
    return state


_CLAIM = f"""
    update attachments
    set attempts = least(attempts + 1, 20), next_attempt_at = clock_timestamp() + make_interval(secs => $1)
    where id = (
        select id from attachments where next_attempt_at <= clock_timestamp() and state = '{FileState.SCANNING}'
        order by next_attempt_at limit 1 for update skip locked
    )
    returning id, attempts
"""  # noqa: S608 - built from constants
_POSTPONE = text("""
    update attachments set next_attempt_at = clock_timestamp() + make_interval(secs => :pause) where id = :id
""")
# The thumbnail of a clean picture is next, with attempts of its own.
_RECORD = text(f"""
    update attachments set state = :state, attempts = 0,
        thumbnail = case when :state = '{FileState.READY}' then thumbnail else '{ThumbnailState.NONE}' end,
        next_attempt_at = case
            when :state = '{FileState.READY}' and thumbnail = '{ThumbnailState.WAITING}' then clock_timestamp()
        end
    where id = :id and state = '{FileState.SCANNING}'
    returning conversation_id
""")  # noqa: S608 - built from constants
