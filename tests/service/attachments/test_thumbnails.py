"""Thumbnails: made by a process with limits, shown to those who may read the file, and announced to open pages."""

import subprocess
import sys
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import text

from services.conversations.attachments import picture_process
from services.conversations.attachments.deletion import delete_files
from services.conversations.attachments.file_store import FileStore, FileStoreError
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.thumbnails import MAX_ATTEMPTS, make_next_thumbnail
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.awkward_files import exif, picture
from tests.service.attachments.test_uploading import objects
from tests.service.helpers.callers import Caller, logged, problem


@pytest.fixture
async def worker() -> AsyncIterator[PictureProcess]:
    running = PictureProcess()
    yield running
    await running.close()


@pytest.fixture
def files(files_url: str) -> FileStore:
    return FileStore(files_url)


async def shown(caller: Caller, file: Any, which: str = "thumbnail") -> Any:
    return await caller.api.get(f"/api/v1/attachments/{file['id']}/{which}", headers=caller.headers)


async def test_a_picture_gets_a_thumbnail_that_both_sides_see(
    anna: Caller, ben: Caller, sam: Caller, conversations: SessionFactory, files: FileStore, worker: PictureProcess
) -> None:
    photo = await anna.upload(picture("JPEG", (1000, 700), exif=exif(6)), "photo.jpg")
    other = await anna.upload(b"A text")
    assert (photo["width"], photo["height"], photo["thumbnail"]) == (700, 1000, False)
    assert problem(await shown(anna, photo)) == (404, "not-found")
    assert await make_next_thumbnail(conversations, files, worker) == "made"
    assert await make_next_thumbnail(conversations, files, worker) is None
    conversation = (await anna.open())["id"]
    [first, second] = (await anna.post(conversation, attachments=[photo["id"], other["id"]]))["attachments"]
    assert (first["thumbnail"], second["thumbnail"]) == (True, False)
    for caller in (anna, sam):
        answer = await shown(caller, photo)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["content-disposition"] == "inline"
        assert answer.headers["x-content-type-options"] == "nosniff"
        with Image.open(BytesIO(answer.content)) as image:
            assert image.size == (358, 512)
        with Image.open(BytesIO((await shown(caller, photo, "picture")).content)) as image:
            assert image.size == (700, 1000)
    assert problem(await shown(ben, photo)) == (404, "not-found")
    assert problem(await shown(anna, other)) == (404, "not-found")


async def test_a_damaged_picture_stays_a_file(
    anna: Caller, conversations: SessionFactory, files: FileStore, worker: PictureProcess
) -> None:
    content = picture("PNG", (500, 500))
    half = await anna.upload(content[: len(content) // 2], "half.png")
    assert await make_next_thumbnail(conversations, files, worker) == "none"
    assert await make_next_thumbnail(conversations, files, worker) is None
    assert problem(await shown(anna, half)) == (404, "not-found")
    assert (await anna.call("GET", f"/attachments/{half['id']}")).status_code == 200


async def test_a_thumbnail_of_a_sent_file_is_announced(
    anna: Caller, conversations: SessionFactory, files: FileStore, worker: PictureProcess
) -> None:
    conversation = (await anna.open())["id"]
    await anna.post(conversation, attachments=[(await anna.upload(picture("PNG")))["id"]])
    await make_next_thumbnail(conversations, files, worker)
    assert (await logged(conversations))[-1] == ("conversation.updated", {"conversation_id": conversation})


async def test_a_file_that_is_deleted_meanwhile_leaves_no_thumbnail(
    anna: Caller,
    conversations: SessionFactory,
    files: FileStore,
    files_url: str,
    worker: PictureProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = await anna.upload(picture("PNG"))
    make = worker.make

    async def delete_and_make(content: bytes) -> Any:
        made = await make(content)
        async with transaction(conversations) as session:
            await session.execute(text("delete from attachments where id = :id"), {"id": UUID(file["id"])})
            due = await session.scalar(text("select due_at - clock_timestamp() from file_deletions"))
        assert due.total_seconds() > 30, "not while thumbnails may still be written"
        return made

    monkeypatch.setattr(worker, "make", delete_and_make)
    await make_next_thumbnail(conversations, files, worker)
    assert len(objects(files_url)) == 3
    assert await delete_files(conversations, files, size=10) == 1
    assert not objects(files_url)


async def test_a_file_that_ends_its_process_each_time_is_given_up(
    anna: Caller, conversations: SessionFactory, files: FileStore, worker: PictureProcess
) -> None:
    await anna.upload(picture("PNG"))
    async with transaction(conversations) as session:
        await session.execute(text("update attachments set attempts = :most"), {"most": MAX_ATTEMPTS})
    assert await make_next_thumbnail(conversations, files, worker) == "none"


async def test_while_the_store_is_away_the_thumbnail_waits(
    anna: Caller,
    conversations: SessionFactory,
    files: FileStore,
    worker: PictureProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await anna.upload(picture("PNG"))

    async def refuse(_: UUID) -> bytes:
        raise FileStoreError("away")

    monkeypatch.setattr(files, "read_all", refuse)
    for _ in range(MAX_ATTEMPTS + 1):
        assert await make_next_thumbnail(conversations, files, worker) == "postponed"
        assert await make_next_thumbnail(conversations, files, worker) is None, "not at once"
        async with transaction(conversations) as session:
            await session.execute(text("update attachments set next_attempt_at = clock_timestamp()"))
    monkeypatch.undo()
    assert await make_next_thumbnail(conversations, files, worker) == "made"


@pytest.mark.parametrize(
    "what",
    [
        "os.kill(os.getpid(), 11)",
        "bytearray(4 * 2**30)",
        "time.sleep(60)",
        "[None for _ in iter(int, 1)]",
        "os._exit(0)",
        "(_ for _ in ()).throw(OSError())",
        "open('left-behind', 'wb').write(b'x')",
    ],
)
def test_a_file_that_misbehaves_ends_its_own_process_only(what: str, tmp_path: Path) -> None:
    program = f"""
import os, time
from services.conversations.attachments import picture_worker as worker
worker.SECONDS, worker.CPU_SECONDS = 0.5, 1
good = worker.make_pictures
def make(content):
    {what}
worker.make_pictures = make
assert worker.answer(b"x") == worker.FAILED
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=30, env=environment)  # noqa: S603 - our own program
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


async def test_a_worker_that_hangs_or_ends_is_replaced(worker: PictureProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await worker.make(picture("PNG")) is not None
    monkeypatch.setattr(picture_process, "WORKER", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(picture_process, "SECONDS", 0.2)
    monkeypatch.setattr(picture_process, "GRACE", 0.0)
    await worker.close()
    assert await worker.make(picture("PNG")) is None
    monkeypatch.undo()
    assert await worker.make(picture("PNG")) is not None
    monkeypatch.setattr(picture_process, "WORKER", ("-c", "pass"))
    await worker.close()
    assert await worker.make(picture("PNG")) is None
