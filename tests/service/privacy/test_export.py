"""The export of a person's data: what is in it, what is not, and how it fails."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID
from zipfile import BadZipFile, ZipFile

import httpx2
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from services.conversations.attachments.file_store import FileStore
from services.conversations.identity.merging import begin_merge
from services.conversations.privacy import queries
from services.notifications.delivery.claiming import claim_emails
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.waiting import eventually
from tests.service.conftest import FEED_SECRET, serving
from tests.service.helpers.callers import ORDER, Caller, problem
from tests.service.helpers.connected import app_of
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper

HOSTILE = "../../<b>%2e%2e/CON:\u202egnp.exe"


@pytest.fixture(autouse=True)
async def _together(api: httpx2.AsyncClient, notifications_api: httpx2.AsyncClient) -> AsyncIterator[None]:
    """Connect the conversations API to the notifications API."""
    transport = httpx2.ASGITransport(app=app_of(notifications_api))
    headers = {"Authorization": f"Bearer {FEED_SECRET}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://n.test", headers=headers) as client:
        app_of(api).state.notifications = client
        yield


async def export(shop: Caller, user_id: str = "anna", **params: Any) -> ZipFile:
    answer = await shop.call("GET", f"/users/{user_id}/export", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    archive = ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    assert len(set(archive.namelist())) == len(archive.namelist())
    return archive


def data(archive: ZipFile, name: str) -> Any:
    return json.loads(archive.read(f"data/{name}.json"))


@pytest.fixture
async def conversation(sweeping: Sweeper, shop: Caller, anna: Caller, sam: Caller) -> str:
    """A conversation about which there is everything that an export can have."""
    profile = {"name": "Anna <b>A</b>", "email": "anna@customer.test", "locale": "de", "custom": {"Level": "gold"}}
    await shop.call("PUT", "/users/anna", profile)
    await shop.call("PUT", "/orders/A-1", ORDER | {"items": [{"name": "Cup", "quantity": 2, "unit_price": "4.50"}]})
    opened = await anna.open(subject="<script>1</script>", body="<img src=x>\n  Zeile", order_id="A-1")
    conversation = str(opened["id"])
    files = [(await anna.upload(content, name))["id"] for content, name in ((b"one", HOSTILE), (b"two", HOSTILE))]
    await anna.post(conversation, "", attachments=files)
    await sam.post(conversation, "An answer")
    wrong = await sam.post(conversation, "A mistake")
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{wrong['id']}")
    await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "A secret note"})
    await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": ["difficult"]})
    await sam.edit(conversation, status="RESOLVED")
    await anna.upload(b"kept back", "unsent.txt")
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with transaction(sweeping.notifications) as session:
        await claim_emails(session, email_settings("postgresql://unused"))
        await session.execute(text("insert into mutes (user_id) values ('anna')"))
        await session.execute(
            text("""
                insert into inbound_emails
                    (conversation_id, user_id, read_up_to, same_as, from_address, size, original, state, reason)
                values (:id, null, 0, '<1@x>', 'anna@customer.test', 7, 'Hello!'::bytea, 'held', 'ambiguous-sender'),
                    (:id, 'anna', 0, '<2@x>', 'eve@stranger.test', 8, 'It is me'::bytea, 'held', 'other-sender')
            """),
            {"id": conversation},
        )
    return conversation


async def test_it_has_everything_of_a_person_as_customers_see_it(shop: Caller, conversation: str) -> None:
    archive = await export(shop)
    person = data(archive, "person")
    assert person["profile"]["custom"] == {"Level": "gold"}
    assert person["emails"]["muted"][0]["conversation_id"] is None
    assert data(archive, "orders")[0]["items"][0]["name"] == "Cup"
    talk = data(archive, "conversations/0001")
    assert (talk["conversation"]["id"], talk["conversation"]["order_number"]) == (conversation, "1007")
    assert [(each["from"], each["name"]) for each in talk["messages"]] == [
        ("customer", "Anna <b>A</b>"),
        ("customer", "Anna <b>A</b>"),
        ("store", "Sam"),
        ("store", "Sam"),
    ]
    assert talk["messages"][3]["removed"]
    assert [(each["kind"], each.get("to")) for each in talk["events"]] == [("removal", None), ("status", "RESOLVED")]
    files = [file["file"] for file in talk["messages"][1]["attachments"]]
    assert [archive.read(name) for name in files] == [b"one", b"two"]
    assert all(re.fullmatch(r"files/0001/0002-[12]-[^/\\<>:\"|?*%\u202e]+", name) for name in files)
    [unsent] = person["unsent_files"]
    assert archive.read(unsent["file"]) == b"kept back"
    assert [each["preview"] for each in data(archive, "notifications")] == ["An answer"]
    assert data(archive, "emails")[0]["to"] == "anna@customer.test"
    [received] = data(archive, "received-emails")
    assert archive.read(f"emails/{received['id']}.eml") == b"Hello!"
    everything = b"".join(archive.read(name) for name in archive.namelist())
    for hidden in (b"secret note", b"difficult", b"sam@store.test", b'"sam"', b"eve@", b"It is me"):
        assert hidden not in everything


async def test_its_pages_are_escaped_in_the_persons_language_and_link_to_the_files(
    shop: Caller, conversation: str
) -> None:
    assert conversation
    archive = await export(shop)
    page, index = (archive.read(name).decode() for name in ("conversations/0001.html", "index.html"))
    assert '<html lang="de"' in index
    assert "Daten von Anna &lt;b&gt;A&lt;/b&gt;" in index
    assert "&lt;img src=x&gt;\n  Zeile" in page
    assert "Vom Shop entfernt" in page
    for html, folder in ((page, "conversations/"), (index, "")):
        assert not re.search("<script|<img|javascript:|https?://", html)
        for link in re.findall('href="([^"]+)"', html):
            path = str(httpx2.URL(f"http://x/{folder}").join(link).path).removeprefix("/")
            assert path in archive.namelist()


async def test_notes_and_labels_are_in_it_on_request_only(shop: Caller, conversation: str) -> None:
    assert conversation
    archive = await export(shop, internal="true")
    talk = data(archive, "conversations/0001")
    assert talk["conversation"]["labels"] == ["difficult"]
    assert {each["kind"] for each in talk["events"]} == {"note", "labels", "status", "removal"}
    assert "A secret note" in archive.read("conversations/0001.html").decode()


async def test_an_admins_export_has_what_they_wrote_and_did(
    shop: Caller, anna: Caller, sam: Caller, sweeping: Sweeper, conversation: str
) -> None:
    await sam.post(conversation, "", attachments=[(await sam.upload(b"a plan", HOSTILE))["id"]])
    await anna.post(conversation, "Noch eine Zeile")
    await sweeping.number()
    await sweeping.catch_up_fully()
    archive = await export(shop, "sam")
    written = data(archive, "support-team/messages")
    assert [(each["body"], each["removed"]) for each in written] == [("An answer", False), ("", True), ("", False)]
    [file] = written[2]["attachments"]
    assert archive.read(file["file"]) == b"a plan"
    assert [each["body"] for each in data(archive, "support-team/notes")] == ["A secret note"]
    assert data(archive, "support-team/assigned") == [conversation]
    told = data(archive, "support-team/notifications")
    assert [each["type"] for each in told] == ["CUSTOMER_REPLIED"]
    assert "message.removed" in {each["action"] for each in data(archive, "support-team/audit")}
    page = archive.read("support-team.html").decode()
    assert "An answer" in page
    assert f'href="{quote(file["file"])}"' in page
    everything = b"".join(archive.read(name) for name in archive.namelist())
    assert b"Zeile" not in everything


async def test_a_person_without_anything_has_an_export_and_each_one_is_in_the_audit(shop: Caller, sam: Caller) -> None:
    await shop.call("PUT", "/users/new", {"name": "New"})
    assert data(await export(shop, "new"), "orders") == []
    assert (await shop.call("HEAD", "/users/new/export")).status_code == 200
    await shop.call("PUT", "/users/.hidden", {"name": "New"})
    assert '"hidden-' in (await shop.call("GET", "/users/.hidden/export")).headers["content-disposition"]
    acts = (await sam.get("/audit", action="user.exported"))["items"]
    assert [(act["target_id"], act["data"]) for act in acts if act["target_id"] == "new"] == [
        ("new", {"internal": False})
    ]


async def test_without_the_notifications_service_nothing_is_exported(
    shop: Caller, sam: Caller, api: httpx2.AsyncClient
) -> None:
    await shop.call("PUT", "/users/away", {})
    app_of(api).state.notifications = None
    answer = await shop.call("GET", "/users/away/export")
    assert problem(answer) == (503, "notifications-unavailable")
    assert answer.headers["retry-after"] == "30"
    assert "CHATS_FEED_SECRET" in answer.json()["detail"]
    acts = (await sam.get("/audit", action="user.exported"))["items"]
    assert "away" not in {act["target_id"] for act in acts}


async def test_unknown_and_deleted_users_are_not_found(shop: Caller, anna: Caller) -> None:
    assert problem(await shop.call("GET", "/users/nobody/export")) == (404, "not-found")
    await anna.open(body="Hello")
    await shop.call("DELETE", "/users/anna")
    answer = await shop.call("GET", "/users/anna/export")
    assert problem(answer) == (404, "not-found")
    assert "deleted" in answer.json()["detail"]


async def test_what_was_scanned_or_lost_is_said(shop: Caller, anna: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open(body="Files"))["id"]
    files = [await anna.upload(b"x", name) for name in ("blocked.exe", "lost.txt")]
    await anna.post(conversation, "", attachments=[file["id"] for file in files])
    async with transaction(conversations) as session:
        await session.execute(text("update attachments set state = 'blocked' where name = 'blocked.exe'"))
    await app_of(anna.api).state.files.delete(UUID(files[1]["id"]))
    archive = await export(shop)
    talk = data(archive, "conversations/0001")
    assert [(each["file"], each["left_out"]) for each in talk["messages"][1]["attachments"]] == [
        (None, "blocked"),
        (None, "missing"),
    ]
    assert not [name for name in archive.namelist() if name.startswith("files/")]


async def test_a_deletion_meanwhile_ends_the_export_without_a_valid_archive(
    shop: Caller,
    anna: Caller,
    sam: Caller,
    api: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    await sam.edit(conversation, status="CLOSED")
    was_ever_admin = queries.Queries.was_ever_admin

    async def delete_first(self: queries.Queries) -> bool:
        await sam.call("DELETE", f"/conversations/{conversation}")
        return await was_ever_admin(self)

    monkeypatch.setattr(queries.Queries, "was_ever_admin", delete_first)
    answer = await shop.call("GET", "/users/anna/export")
    assert problem(answer) == (503, "unavailable"), "nothing was sent yet"
    assert "changed during the export" in answer.text
    conversation = (await anna.open(body="Hello"))["id"]
    await sam.edit(conversation, status="CLOSED")
    await anna.upload(bytes(200_000))  # sent before the conversations
    received = io.BytesIO()

    async def download(url: str) -> None:
        async with httpx2.AsyncClient(timeout=30) as client, client.stream("GET", url, headers=shop.headers) as answer:
            assert answer.status_code == 200
            async for chunk in answer.aiter_bytes():
                received.write(chunk)

    async with serving(app_of(api)) as port:
        with pytest.raises(httpx2.RemoteProtocolError), capture_logs() as logs:
            await download(f"http://127.0.0.1:{port}/api/v1/store/users/anna/export")
    assert [(each["reason"], each["is_cut"]) for each in logs if each["event"] == "export ended early"] == [
        ("A conversation was deleted while it was exported.", True)
    ]
    assert "Exception in ASGI application" not in caplog.text
    with pytest.raises(BadZipFile):
        ZipFile(received)


async def test_a_file_that_is_deleted_while_it_is_read_ends_the_export(
    shop: Caller, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await anna.upload(bytes(3_000_000))
    files: FileStore = app_of(anna.api).state.files
    read_slices = files.read_slices

    async def delete_after_the_first(attachment_id: UUID, size: int) -> AsyncIterator[bytes]:
        async for part in read_slices(attachment_id, size):
            yield part
            await files.delete(attachment_id)

    monkeypatch.setattr(files, "read_slices", delete_after_the_first)
    with capture_logs() as logs:
        answer = await shop.call("GET", "/users/anna/export")
    assert "A file was deleted while it was exported." in [entry.get("reason") for entry in logs]
    with pytest.raises(BadZipFile):
        ZipFile(io.BytesIO(answer.content))


async def test_a_client_that_goes_away_leaves_nothing_running(
    shop: Caller, anna: Caller, api: httpx2.AsyncClient
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    file = await anna.upload(bytes(8_000_000), "large.bin")
    await anna.post(conversation, "", attachments=[file["id"]])
    async with serving(app_of(api)) as port:
        before = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"{name}: {value}" for name, value in shop.headers.items()]
        head = "\r\n".join(["GET /api/v1/store/users/anna/export HTTP/1.1", "Host: x", *lines, "", ""])
        writer.write(head.encode())
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        assert len(asyncio.all_tasks()) > before
        writer.transport.abort()
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_what_a_merger_has_not_moved_yet_is_in_it(
    anna: Caller, ben: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    for caller in (anna, ben):
        await caller.open()
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")  # and its process died
    archive = await export(shop, "ben")
    assert {"data/conversations/0001.json", "data/conversations/0002.json"} <= set(archive.namelist())
    assert data(archive, "person")["profile"]["merged_ids"] == ["anna"]
    assert ">anna</dd>" in archive.read("index.html").decode()


async def test_it_has_what_the_notifications_service_has_of_an_old_id(
    shop: Caller, ben: Caller, sweeping: Sweeper, conversation: str
) -> None:
    await ben.open()
    await sweeping.number()
    await sweeping.catch_up_fully()
    await shop.call("POST", "/users/anna/merge", {"into": "ben"})
    for _ in range(2):
        archive = await export(shop, "ben")
        assert [each["conversation_id"] for each in data(archive, "notifications")] == [conversation]
        assert len(data(archive, "emails")) == 1
        assert len(data(archive, "person")["emails"]["muted"]) == 1
        await sweeping.number()
        await sweeping.catch_up_fully()  # the second time, it knows of the merger


async def test_a_process_makes_two_at_the_same_time(shop: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.call("PUT", "/users/new", {})
    check, may_end, ending = queries.Queries.check_still_there, asyncio.Event(), []

    async def wait(self: queries.Queries, conversations: list[queries.ExportedConversation]) -> None:
        ending.append(self)
        await may_end.wait()
        await check(self, conversations)

    monkeypatch.setattr(queries.Queries, "check_still_there", wait)
    exports = [asyncio.create_task(export(shop, "new")) for _ in range(2)]
    await eventually(lambda: len(ending) == 2)
    refused = await shop.call("GET", "/users/new/export")
    assert problem(refused) == (503, "unavailable")
    assert refused.headers["retry-after"] == "5"
    may_end.set()
    await asyncio.gather(*exports)
    assert await export(shop, "new")
