"""A bucket of a real S3-compatible server as the file store: the same uploads, downloads, deletions and checks."""

import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.conversations.attachments.check import compare
from services.conversations.attachments.deletion import delete_files
from services.conversations.attachments.file_store import FileStore, FileStoreError, object_name
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.thumbnails import make_next_thumbnail
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.awkward_files import picture
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, Bucket, running_s3
from tests.helpers.waiting import eventually
from tests.service.attachments.test_uploading import application
from tests.service.helpers.callers import Caller


@pytest.fixture(scope="module")
async def bucket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bucket]:
    async with running_s3(tmp_path_factory.mktemp("s3")) as running:
        files = FileStore(running.url, ACCESS_KEY, SECRET_KEY)

        async def usable() -> bool:
            try:
                await files.probe()
            except FileStoreError:
                return False
            return True

        await eventually(usable, deadline=30)  # it accepts connections before it has a volume
        yield running


async def names(files: FileStore) -> list[str]:
    return [name async for name, _, _ in files.names()]


async def test_files_are_kept_in_a_bucket(anna: Caller, conversations: SessionFactory, bucket: Bucket) -> None:
    files = FileStore(bucket.url, ACCESS_KEY, SECRET_KEY)
    application(anna).state.files = files
    content = os.urandom(11 * 2**20)  # in three parts
    large, photo = await anna.upload(content, "large.bin"), await anna.upload(picture("PNG"), "photo.png")
    conversation = (await anna.open(attachments=[large["id"], photo["id"]]))["id"]
    assert (await anna.call("GET", f"/attachments/{large['id']}")).content == content
    worker = PictureProcess()
    assert await make_next_thumbnail(conversations, files, worker) == "made"
    await worker.close()
    assert (await anna.call("GET", f"/attachments/{photo['id']}/thumbnail")).status_code == 200
    async with conversations() as session:
        found = await compare(session, files)
    assert (found.objects, found.rows, found.matches) == (4, 2, True)
    async with transaction(conversations) as session:
        await session.execute(text("delete from attachments where conversation_id = :id"), {"id": conversation})
    assert await delete_files(conversations, files, size=10) == 2
    assert await names(files) == []


async def test_an_interrupted_upload_is_no_object_and_a_wrong_key_is_an_error(bucket: Bucket) -> None:
    files = FileStore(bucket.url, ACCESS_KEY, SECRET_KEY)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 6 * 2**20
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.write(uuid4(), broken())
    assert await names(files) == []
    with pytest.raises(FileNotFoundError):
        await files.read(uuid4())
    stranger = FileStore(bucket.url, ACCESS_KEY, "another-secret")
    with pytest.raises(FileStoreError) as refused:
        await stranger.read(uuid4())
    assert "another-secret" not in str(refused.value)
    assert object_name(uuid4()) not in str(refused.value)
