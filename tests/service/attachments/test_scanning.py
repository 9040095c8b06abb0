"""Files are held back until clamd has scanned them, and for good if it finds something."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from services.conversations.attachments.clamd import ScanError, ping, scan
from services.conversations.attachments.file_store import FileStore, FileStoreError, chunked
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.scanning import scan_next_file
from services.conversations.attachments.thumbnails import make_next_thumbnail
from shared.database.transactions import SessionFactory
from tests.helpers.awkward_files import picture
from tests.helpers.clamd_peer import Clamd, running_clamd
from tests.service.attachments.test_uploading import set_settings
from tests.service.helpers.callers import Caller, logged, problem


@pytest.fixture
async def clamd(anna: Caller) -> AsyncIterator[Clamd]:
    """Run clamd, and have the API hold files back for it."""
    async with running_clamd() as running:
        set_settings(anna, scan_url=running.url)
        yield running


async def read(caller: Caller, file: Any) -> httpx2.Response:
    answer: httpx2.Response = await caller.api.get(f"/api/v1/attachments/{file['id']}", headers=caller.headers)
    return answer


async def test_a_file_can_be_read_once_it_is_clean(
    anna: Caller, sam: Caller, conversations: SessionFactory, files_url: str, clamd: Clamd
) -> None:
    file = await anna.upload(picture("PNG"))
    assert file["state"] == "scanning"
    conversation = (await anna.open(attachments=[file["id"]]))["id"]
    for caller in (anna, sam):
        assert problem(await read(caller, file)) == (409, "file-not-ready")
    files, worker = FileStore(files_url), PictureProcess()
    assert await make_next_thumbnail(conversations, files, worker) is None, "decoders do not see it either"
    assert await scan_next_file(conversations, files, clamd.url) == "ready"
    assert await scan_next_file(conversations, files, clamd.url) is None
    assert clamd.scanned == [picture("PNG")]
    assert (await read(sam, file)).status_code == 200
    [message] = (await sam.get(f"/conversations/{conversation}/messages"))["items"]
    assert message["attachments"][0]["state"] == "ready"
    assert (await logged(conversations))[-1] == ("conversation.updated", {"conversation_id": conversation})
    assert await make_next_thumbnail(conversations, files, worker) == "made"
    await worker.close()


async def test_a_file_in_which_something_was_found_is_blocked(
    anna: Caller, conversations: SessionFactory, files_url: str, clamd: Clamd
) -> None:
    sent = await anna.upload(b"EICAR")
    conversation = (await anna.open(attachments=[sent["id"]]))["id"]
    unsent = await anna.upload(b"EICAR, too")
    for _ in range(2):
        assert await scan_next_file(conversations, FileStore(files_url), clamd.url) == "blocked"
    [message] = (await anna.get(f"/conversations/{conversation}/messages"))["items"]
    assert message["attachments"][0]["state"] == "blocked"
    for file in (sent, unsent):
        assert problem(await read(anna, file)) == (409, "file-not-ready")
    answer = await anna.call("POST", f"/conversations/{conversation}/messages", {"attachments": [unsent["id"]]})
    assert problem(answer) == (422, "validation-failed")


@pytest.mark.parametrize("answer", [b"INSTREAM size limit exceeded. ERROR\0", b"\0", b"stream: FOUND nothing\0"])
async def test_a_file_that_cannot_be_scanned_waits(
    anna: Caller, conversations: SessionFactory, files_url: str, clamd: Clamd, answer: bytes
) -> None:
    file = await anna.upload()
    clamd.answer = answer
    assert await scan_next_file(conversations, FileStore(files_url), clamd.url) == "postponed"
    assert await scan_next_file(conversations, FileStore(files_url), clamd.url) is None, "not at once"
    assert problem(await read(anna, file)) == (409, "file-not-ready")


async def test_an_answer_before_the_end_of_a_file_is_read(clamd: Clamd) -> None:
    clamd.max_bytes = 2**20
    with pytest.raises(ScanError, match="size limit exceeded"):
        await scan(clamd.url, chunked(bytes(2**25)))  # more than the buffers of the connection hold
    clamd.end.set()


async def test_a_file_whose_store_fails_while_it_is_scanned_waits(
    anna: Caller, conversations: SessionFactory, files_url: str, clamd: Clamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await anna.upload()
    files = FileStore(files_url)

    async def broken(*_: Any, **__: Any) -> AsyncIterator[bytes]:
        yield b"the first bytes"
        raise FileStoreError("the connection was reset")

    async def read_broken(_: Any) -> AsyncIterator[bytes]:
        return broken()

    monkeypatch.setattr(files, "read", read_broken)
    assert await scan_next_file(conversations, files, clamd.url) == "postponed"
    assert problem(await read(anna, file)) == (409, "file-not-ready")


async def test_while_clamd_is_away_files_wait_and_without_its_setting_they_are_ready(
    anna: Caller, conversations: SessionFactory, files_url: str, clamd: Clamd
) -> None:
    first, second = await anna.upload(), await anna.upload()
    files, nobody = FileStore(files_url), "tcp://127.0.0.1:1"
    assert await scan_next_file(conversations, files, nobody) == "postponed"
    assert await scan_next_file(conversations, files, None) == "ready"
    states = {(await read(anna, file)).status_code for file in (first, second)}
    assert states == {200, 409}
    with pytest.raises(ScanError):
        await ping(nobody)
    await ping(clamd.url)
