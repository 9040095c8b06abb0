"""`chats files check` finds what the store and the database do not agree about; deletions reach the store."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from deploy.commands import files as command
from services.conversations.attachments.check import clean_up, compare
from services.conversations.attachments.deletion import delete_files
from services.conversations.attachments.file_store import FileStore, FileStoreError, chunked, object_name
from services.conversations.attachments.uploads import purge_unsent
from services.conversations.settings import FileSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.attachments.test_uploading import objects
from tests.service.helpers.callers import Caller, problem

DAYS = 2 * 24 * 3600


@pytest.fixture
def files(files_url: str) -> FileStore:
    return FileStore(files_url)


def age(url: str) -> None:
    """Make all objects two days old."""
    for path in objects(url):
        os.utime(path, (path.stat().st_mtime - DAYS,) * 2)


async def found(sessions: SessionFactory, files: FileStore) -> Any:
    async with sessions() as session:
        return await compare(session, files)


async def test_what_belongs_together_matches(anna: Caller, conversations: SessionFactory, files: FileStore) -> None:
    await anna.open(attachments=[(await anna.upload())["id"]])
    await anna.upload()
    result = await found(conversations, files)
    assert (result.objects, result.rows, result.matches) == (2, 2, True)


async def test_a_file_without_a_row_a_row_without_a_file_and_parts_are_found_and_deleted(
    anna: Caller, conversations: SessionFactory, files: FileStore, files_url: str
) -> None:
    kept, lost = await anna.upload(), await anna.upload()
    stranger, away = uuid4(), UUID(lost["id"])
    await files.write(stranger, chunked(b"Nobody's"))
    folder = Path(urlsplit(files_url).path)
    (folder / f"{object_name(stranger)}#3").write_bytes(b"A part")
    (folder / f"{object_name(UUID(kept['id']))}#1").write_bytes(b"A part")
    (folder / "zz").mkdir()
    (folder / "zz" / "notes.txt").write_bytes(b"Somebody else's")
    (folder / object_name(away)).unlink()
    assert (await found(conversations, files)).without_row == [], "it may be under way"
    age(files_url)
    result = await found(conversations, files)
    assert result.without_row == [object_name(stranger)]
    assert sorted(result.parts) == sorted([f"{object_name(stranger)}#3", f"{object_name(UUID(kept['id']))}#1"])
    assert result.without_file == [away]
    assert result.foreign == ["zz/notes.txt"]
    assert not result.matches
    async with transaction(conversations) as session:
        assert await clean_up(session, files, result) == 2
    assert await delete_files(conversations, files, size=10) == 1
    assert {path.name for path in objects(files_url)} == {kept["id"], "notes.txt"}


async def test_a_file_that_is_stored_during_a_check_is_not_missing(
    anna: Caller, conversations: SessionFactory, files_url: str
) -> None:
    class Busy(FileStore):
        """A store to which a file is uploaded when its objects have been listed."""

        is_new = True

        async def names(self) -> AsyncIterator[tuple[str, int, float]]:
            async for name in super().names():
                yield name
            if self.is_new:
                self.is_new = False
                await anna.upload()

    assert (await found(conversations, Busy(files_url))).matches


async def test_a_file_that_is_deleted_during_a_listing_is_left_out(
    anna: Caller, files: FileStore, files_url: str
) -> None:
    await anna.upload(), await anna.upload()
    listing = files.names()
    first = [await anext(listing)]
    for path in objects(files_url):
        path.unlink()
    assert first + [name async for name in listing] == first


async def test_the_command_says_what_it_found(
    anna: Caller,
    databases: dict[str, str],
    files: FileStore,
    files_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await anna.upload()
    await files.write(uuid4(), chunked(b"Nobody's"))
    age(files_url)
    settings = FileSettings(conversations_database_url=databases["conversations"], files_url=files_url)
    monkeypatch.setattr(command, "read_settings", lambda _: settings)
    assert await asyncio.to_thread(command.print_comparison, delete=False) is False
    assert "1 without a row" in capsys.readouterr().out
    assert await asyncio.to_thread(command.print_comparison, delete=True) is True
    assert "Deleting what is left of 1 files" in capsys.readouterr().out


async def test_uploads_that_were_not_sent_within_a_day_are_deleted(
    anna: Caller, conversations: SessionFactory, files: FileStore, files_url: str
) -> None:
    sent, unsent, new = await anna.upload(), await anna.upload(), await anna.upload()
    await anna.open(attachments=[sent["id"]])
    async with transaction(conversations) as session:
        await session.execute(
            text("update attachments set created_at = created_at - cast(:day as interval) where id <> :new"),
            {"day": timedelta(hours=24), "new": UUID(new["id"])},
        )
    settings = FileSettings(conversations_database_url="postgresql://unused")
    async with transaction(conversations) as session:
        assert await purge_unsent(session, settings, size=10) == 1
    assert problem(await anna.call("GET", f"/attachments/{unsent['id']}")) == (404, "not-found")
    assert await delete_files(conversations, files, size=10) == 1
    assert {path.name for path in objects(files_url)} == {sent["id"], new["id"]}


async def test_a_deletion_waits_while_the_store_is_away(
    anna: Caller, conversations: SessionFactory, files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await anna.upload()
    async with transaction(conversations) as session:
        await session.execute(text("delete from attachments"))

    async def refuse(_: UUID) -> None:
        raise FileStoreError("away")

    monkeypatch.setattr(files, "delete", refuse)
    assert await delete_files(conversations, files, size=10) == 0
    monkeypatch.undo()
    assert await delete_files(conversations, files, size=10) == 0, "not at once"
    async with transaction(conversations) as session:
        await session.execute(text("update file_deletions set due_at = clock_timestamp()"))
    assert await delete_files(conversations, files, size=10) == 1
    assert (await found(conversations, files)).objects == 0


async def test_a_store_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    await FileStore((tmp_path / "new").as_uri()).probe()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileStoreError):
        await FileStore((tmp_path / "file").as_uri()).probe()
    with pytest.raises(FileStoreError):
        await FileStore("s3://bucket?endpoint=http://127.0.0.1:1&region=x", "key", "secret").probe()


async def test_a_check_of_the_store_never_aborts_its_process(files_url: str) -> None:
    code = (
        "import asyncio, sys; from services.conversations.attachments.file_store import FileStore;"
        " asyncio.run(FileStore(sys.argv[1]).probe())"
    )
    count = 20 if os.environ.get("EVERY_CASE") else 2
    runs = [await asyncio.create_subprocess_exec(sys.executable, "-c", code, files_url) for _ in range(count)]
    assert {await run.wait() for run in runs} == {0}
