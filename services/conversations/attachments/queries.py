"""Reads of attachments, scoped in their SQL to those who may read them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.conversations.errors import FileNotReady
from services.conversations.rules import FileState, Side
from shared.database.engine import Driver
from shared.database.reader import Reader
from shared.problems import NotFound


async def load_attachment(reader: Reader, attachment_id: UUID, caller_id: str, side: Side) -> Any:
    """Return the row of a file that the caller may read. Raises `NotFound`, or `FileNotReady` if it is held back.

    Until a file is sent, it is its uploader's alone. Then it belongs to the two sides of its conversation.
    """
    scope = caller_id if side is Side.CUSTOMER else None
    rows = await reader.fetch(_ATTACHMENT, attachment_id, caller_id, side.value, scope)
    if not rows:
        raise NotFound("There is no such file.")
    [row] = rows
    if row[_STATE] == FileState.SCANNING:
        raise FileNotReady("The file is being checked. Try again in a moment.")
    if row[_STATE] == FileState.BLOCKED:
        raise FileNotReady("The file was blocked, because the scan found something harmful in it.")
    return row


async def list_unsent(connection: Driver, ids: Sequence[str], uploader_id: str, side: Side) -> Sequence[Any]:
    """Return the rows of those of these files that the uploader can send, in the order of the ids, which may be any."""
    known = [attachment_id for text in ids if (attachment_id := _uuid(text)) is not None]
    rows: Sequence[Any] = await connection.fetch(_UNSENT, known, uploader_id, side.value)
    return rows


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


NAME, CONTENT_TYPE, SIZE, SHA256, THUMBNAIL_STATE, _STATE, CONVERSATION_ID = range(7)
_ATTACHMENT = f"""
select a.name, a.content_type, a.size, a.sha256, a.thumbnail, a.state, c.id
from attachments as a left join conversations as c on c.id = a.conversation_id
where a.id = $1 and a.state <> '{FileState.UPLOADING}' and (
    (a.message_id is null and a.uploader_id = $2 and a.side = $3)
    or (c.id is not null and ($4::text is null or c.user_id = $4))
)
"""  # noqa: S608 - built from constants
_UNSENT = f"""
select file.id, file.name, file.size, file.content_type, file.sha256, file.state, file.width, file.height,
    file.thumbnail
from unnest($1::uuid[]) with ordinality as wanted (id, position) join attachments as file on file.id = wanted.id
where file.uploader_id = $2 and file.side = $3 and file.message_id is null
    and file.state in ('{FileState.READY}', '{FileState.SCANNING}')
order by wanted.position
"""  # noqa: S608 - built from constants
