"""`chats people`: a person's data on the command line."""

import asyncio
from pathlib import Path
from zipfile import ZipFile

from typer.testing import CliRunner, Result

from deploy.cli import app
from services.notifications.app import create_app
from services.notifications.settings import ApiSettings
from shared.database.transactions import SessionFactory
from tests.service.conftest import FEED_SECRET, SECRET, serving
from tests.service.helpers.callers import Caller


async def chats_people(databases: dict[str, str], files_url: str, url: str, *words: str) -> Result:
    environment = {
        "CHATS_CONVERSATIONS_DATABASE_URL": databases["conversations"],
        "CHATS_FILES_URL": files_url,
        "CHATS_NOTIFICATIONS_URL": url,
        "CHATS_FEED_SECRET": FEED_SECRET,
        "CHATS_STORE_NAME": "Test Store",
    }
    return await asyncio.to_thread(CliRunner().invoke, app, ["people", *words], env=environment)


def files_in(folder: Path, start: str) -> list[Path]:
    return list(folder.glob(f"{start}*"))


async def test_an_export_is_a_whole_file_or_none(
    databases: dict[str, str], notifications: SessionFactory, files_url: str, anna: Caller, tmp_path: Path
) -> None:
    assert notifications
    conversation = (await anna.open(body="Hello"))["id"]
    file = await anna.upload(b"of Anna", "a.txt")
    await anna.post(conversation, "", attachments=[file["id"]])
    path = tmp_path / "anna.zip"
    (tmp_path / "anna.zip.part").symlink_to(tmp_path / "another file")
    settings = ApiSettings(
        notifications_database_url=databases["notifications"], auth_secret=[SECRET], feed_secret=FEED_SECRET
    )
    async with serving(create_app(settings)) as port:
        url = f"http://127.0.0.1:{port}"
        done = await chats_people(databases, files_url, url, "export", "anna", "-o", str(path))
        assert (done.exit_code, done.stderr) == (0, "")
        assert ZipFile(path).read("files/0001/0002-1-a.txt") == b"of Anna"
        assert path.stat().st_mode & 0o777 == 0o600
        unknown = await chats_people(databases, files_url, url, "export", "nobody", "-o", str(path))
        assert "no user with this id" in str(unknown.exception)
    path.unlink()
    away = await chats_people(databases, files_url, url, "export", "anna", "-o", str(path))
    assert "notifications service does not answer" in str(away.exception)
    assert [file.name for file in files_in(tmp_path, "a")] == ["anna.zip.part"]


async def test_a_customer_is_merged_and_exported_under_both_ids(
    databases: dict[str, str], notifications: SessionFactory, files_url: str, anna: Caller, ben: Caller, tmp_path: Path
) -> None:
    assert notifications
    conversation = (await anna.open(body="Hello"))["id"]
    await ben.open()
    path = tmp_path / "anna.zip"
    settings = ApiSettings(
        notifications_database_url=databases["notifications"], auth_secret=[SECRET], feed_secret=FEED_SECRET
    )
    async with serving(create_app(settings)) as port:
        url = f"http://127.0.0.1:{port}"
        for _ in range(2):
            done = await chats_people(databases, files_url, url, "merge", "anna", "ben")
            assert (done.exit_code, done.stdout) == (0, "anna is ben now.\n")
        refused = await chats_people(databases, files_url, url, "merge", "ben", "anna")
        assert "They are one person already" in str(refused.exception)
        done = await chats_people(databases, files_url, url, "export", "anna", "-o", str(path))
        assert (done.exit_code, done.stderr) == (0, "")
    archive = ZipFile(path)
    everything = b"".join(map(archive.read, archive.namelist())).decode(errors="replace")
    assert conversation in everything
    assert '"ben"' in everything


async def test_erasing_shows_what_there_is_and_asks(databases: dict[str, str], anna: Caller, files_url: str) -> None:
    await anna.open(body="Hello")
    said = "Erases: 2 profile fields, 1 conversations, 1 messages\nKeeps:  nothing\n"
    preview = await chats_people(databases, files_url, "", "erase", "anna", "--content", "--dry-run")
    assert (preview.exit_code, preview.stdout) == (0, said)
    asked = await chats_people(databases, files_url, "", "erase", "anna", "--content")
    assert asked.exit_code == 1  # nobody answered
    assert len((await anna.get("/conversations"))["items"]) == 1
    done = await chats_people(databases, files_url, "", "erase", "anna", "--content", "--yes")
    assert done.stdout.startswith(f"{said}Erased. Receipt: ")
    assert (await anna.call("GET", "/conversations")).status_code == 401
