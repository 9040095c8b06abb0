"""Compare the file store with the database: files without a row, rows without a file, unfinished parts."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.attachments.file_store import SUFFIXES, FileStore, attachment_of, object_name
from services.conversations.rules import FileState, ThumbnailState

YOUNG = 24 * 3600  # seconds; younger objects may belong to uploads that are under way
PAGE = 1000  # rows read at once


@dataclass
class Comparison:
    """What was compared, and the names and ids of what does not match."""

    objects: int = 0
    rows: int = 0
    without_row: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    without_file: list[UUID] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        """Return whether nothing is missing or left over. Files of others do no harm."""
        return not (self.without_row or self.parts or self.without_file)


async def compare(session: AsyncSession, files: FileStore, *, now: float | None = None) -> Comparison:
    """Compare all objects with all rows. Leaves out objects of the last day without a row, and deletions that wait."""
    result, now = Comparison(), time.time() if now is None else now
    names: set[str] = set()
    strangers: dict[str, UUID] = {}
    async for name, _, modified in files.names():
        result.objects += 1
        owner = attachment_of(name)
        if owner is None:
            result.foreign.append(name)
        elif "#" in name:
            if modified < now - YOUNG:
                result.parts.append(name)
        else:
            names.add(name)
            if modified < now - YOUNG:
                strangers[name] = owner
    known: set[UUID] = set()
    missing: dict[UUID, set[str]] = {}
    async for attachment_id, thumbnail in _rows(session):
        known.add(attachment_id)
        result.rows += 1
        suffixes = SUFFIXES if thumbnail == ThumbnailState.READY else ("",)
        if lacking := {object_name(attachment_id, suffix) for suffix in suffixes} - names:
            missing[attachment_id] = lacking
    if missing:  # or stored after the names were listed
        names = {name async for name, _, _ in files.names()}
        result.without_file = [attachment_id for attachment_id, lacking in missing.items() if lacking - names]
    waiting = set((await session.scalars(text("select id from file_deletions"))).all())
    unfinished = set((await session.scalars(_UNFINISHED)).all())
    result.without_row = sorted(name for name, owner in strangers.items() if owner not in known | waiting | unfinished)
    return result


async def clean_up(session: AsyncSession, files: FileStore, found: Comparison) -> int:
    """Note the deletion of objects without a row, and delete old parts; return how many files these are of."""
    await session.execute(_NOTE, {"ids": [attachment_of(name) for name in found.without_row]})
    owners = {owner for name in found.parts if (owner := attachment_of(name)) is not None}
    for owner in owners:
        await files.delete_parts(owner)
    return len(owners | {attachment_of(name) for name in found.without_row})


async def _rows(session: AsyncSession) -> AsyncIterator[tuple[UUID, str]]:
    """Yield the id and the thumbnail's state of every complete file, in the order of ids."""
    after = UUID(int=0)
    while rows := (await session.execute(_ROWS, {"after": after, "size": PAGE})).all():
        for row in rows:
            yield row.id, row.thumbnail
        after = rows[-1].id


_ROWS = text(f"""
    select id, thumbnail from attachments where id > :after and state <> '{FileState.UPLOADING}'
    order by id limit :size
""")  # noqa: S608 - built from constants
_UNFINISHED = text(f"select id from attachments where state = '{FileState.UPLOADING}'")  # noqa: S608 - built from constants
_NOTE = text("""
    insert into file_deletions (id, due_at)
    select id, clock_timestamp() from unnest(cast(:ids as uuid[])) as owner (id)
    where not exists (select from attachments where attachments.id = owner.id)
    on conflict do nothing
""")
