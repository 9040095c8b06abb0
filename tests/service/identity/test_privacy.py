"""What a deletion leaves: markers are searched in every table of both databases, as docs/guarantees.md lists them."""

import re
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from services.conversations.attachments.deletion import delete_files
from services.conversations.attachments.file_store import FileStore
from services.conversations.models import Base as ConversationsBase
from services.conversations.search.indexer import index_round
from services.notifications.delivery.claiming import claim_emails
from services.notifications.event_consumer.consumer import park_event
from services.notifications.models import Base as NotificationsBase
from shared.database.transactions import SessionFactory, transaction
from tests.service.attachments.test_uploading import objects
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import ANNA, email_settings, posted
from tests.service.helpers.sweeping import Sweeper

TEXT, ADDRESS, OWN = "m4rkertext", "m4rkeraddress", "m4rkerown"
TABLES = {
    f"{service}.{table}"
    for service, base in (("conversations", ConversationsBase), ("notifications", NotificationsBase))
    for table in base.metadata.tables
}
SETTINGS = email_settings(
    "postgresql://unused",
    support_email="desk@store.test",
    inbound_domain="in.store.test",
    inbound_secret=SecretStr("a secret"),
)


def test_the_documentation_of_erased_data_lists_every_table() -> None:
    chapter = Path("docs/guarantees.md").read_text().partition("## What is erased")[2].partition("\n## ")[0]
    named = {f"{service}.{table}" for service, table in re.findall(r"^\| (\w+)\.`(\w+)`", chapter, re.MULTILINE)}
    rest = chapter.partition("ids, numbers and times only:")[2].partition(". With")[0]
    for part in rest.split(";"):
        service, _, tables = part.partition(".")
        named |= {f"{service.strip()}.{table}" for table in re.findall(r"`(\w+)`", tables)}
    assert named == TABLES


@pytest.fixture
async def world(
    sweeping: Sweeper, anna: Caller, sam: Caller, kim: Caller, shop: Caller
) -> tuple[Sweeper, str, Caller, Caller]:
    """A conversation whose text is in every table that can hold any: read, emailed, attempted, and parked."""
    sweeping.settings = SETTINGS
    custom = {f"Field {OWN}": f"Value {OWN}"}
    profile = {"name": f"Anna {ADDRESS}", "email": f"{ADDRESS}@customer.test", "role": "customer", "custom": custom}
    await shop.call("PUT", "/users/anna", profile)
    conversation = (await anna.open(subject=f"Subject {TEXT}", body=f"Question {TEXT}", key="once"))["id"]
    await sam.post(conversation, f"Answer {TEXT}")
    for caller in (anna, sam):
        file = await caller.upload(f"File {TEXT}".encode(), f"{TEXT}.txt")
        await caller.post(conversation, "", attachments=[file["id"]])
    await catch_up(sweeping)
    async with transaction(sweeping.notifications) as session:
        assert len(await claim_emails(session, SETTINGS) or []) == 2  # rendered, to the customer and to support
        await session.execute(_TRY, {"reply": f"no such user {ADDRESS}@customer.test"})
        content = f"From: {ADDRESS}@customer.test\r\n\r\n{TEXT}".encode()
        await session.execute(_INBOUND, {"content": content, "address": f"{ADDRESS}@customer.test"})
    await sam.post(conversation, f"Another answer {TEXT}")  # in an email that is not rendered yet
    await catch_up(sweeping)
    customer = ANNA.model_copy(update={"name": ADDRESS})
    parked = posted(UUID(conversation), 9, body=TEXT, customer=customer).model_dump(mode="json")
    await park_event(sweeping.notifications, posted(UUID(conversation), 9).id, "message.posted", "a test", parked)
    async with transaction(sweeping.conversations) as session:
        await session.execute(_ANSWERED, {"id": conversation, "answer": f"You sent me: {TEXT}"})
    await kim.get("/conversations")
    note = {"body": f"Note {TEXT}", "mentions": ["kim"]}
    assert (await sam.call("POST", f"/conversations/{conversation}/notes", note)).status_code == 201
    await sam.edit(conversation, status="CLOSED")
    await catch_up(sweeping)
    return sweeping, conversation, sam, shop


_TRY = text("""
    insert into email_tries (email_id, outcome, phase, reply, process)
    select id, 'deferred', 'rcpt', :reply, 'a test' from emails where recipient_id = 'anna'
""")


_INBOUND = text("""
    insert into inbound_emails
        (conversation_id, email_id, user_id, read_up_to, same_as, from_address, size, original, state)
    select conversation_id, id, recipient_id, 1, '<1@x>', :address, 1, :content, 'posted'
    from emails where recipient_id = 'anna'
""")


# A webhook's endpoint that failed, and sent back what it got.
_ANSWERED = text("""
    insert into webhook_deliveries (webhook_id, event_id, type, at, lane, conversation_id, state, response)
    values (gen_random_uuid(), gen_random_uuid(), 'message.posted', now(), 0, :id, 'failed', :answer)
""")


async def catch_up(sweeping: Sweeper) -> None:
    await index(sweeping)
    await sweeping.catch_up_fully()


async def index(sweeping: Sweeper) -> None:
    await sweeping.number()
    while await index_round(sweeping.conversations, settle=-1):
        pass


async def tables_with(sweeping: Sweeper, *markers: str) -> set[str]:
    """Return the tables that contain one of the markers, as text or as bytes."""
    found = set()
    for name in TABLES:
        service, _, table = name.partition(".")
        sessions: SessionFactory = getattr(sweeping, service)
        async with sessions() as session:
            rows = "\n".join(await session.scalars(text(f"select t::text from {table} as t")))  # noqa: S608 - our own
        if any(marker in rows or marker.encode().hex() in rows for marker in markers):
            found.add(name)
    return found


async def files_with(sweeping: Sweeper, files_url: str) -> int:
    """Delete the files that are due, and return how many objects with the marker are left."""
    await delete_files(sweeping.conversations, FileStore(files_url), size=100)
    return sum(TEXT.encode() in path.read_bytes() for path in objects(files_url))


HOLD_TEXT = {
    *("conversations.conversations", "conversations.messages", "conversations.events", "conversations.attachments"),
    "conversations.conversation_search",
    "conversations.note_search",
    "conversations.conversation_entries",
    "conversations.webhook_deliveries",
    "notifications.admin_notifications",
    *("notifications.notifications", "notifications.emails", "notifications.email_messages", "notifications.inbox"),
    "notifications.inbound_emails",
}
HOLD_ADDRESS = {
    *("conversations.users", "conversations.events"),
    *("notifications.people", "notifications.emails", "notifications.email_tries", "notifications.inbox"),
    "notifications.inbound_emails",
}


async def test_a_deleted_conversation_leaves_its_text_nowhere(
    world: tuple[Sweeper, str, Caller, Caller], files_url: str
) -> None:
    sweeping, conversation, sam, _ = world
    assert await tables_with(sweeping, TEXT) == HOLD_TEXT
    assert await files_with(sweeping, files_url) == 2
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    await catch_up(sweeping)
    assert await tables_with(sweeping, TEXT) == set()
    assert await files_with(sweeping, files_url) == 0


async def test_a_deleted_user_leaves_their_address_nowhere_and_the_conversation_stays(
    world: tuple[Sweeper, str, Caller, Caller], anna: Caller, files_url: str
) -> None:
    sweeping, _, _, shop = world
    await anna.upload(f"Not sent {TEXT}".encode())
    assert await files_with(sweeping, files_url) == 3
    assert await tables_with(sweeping, ADDRESS) == HOLD_ADDRESS
    assert await tables_with(sweeping, OWN) == {"conversations.users"}
    assert (await shop.call("DELETE", "/users/anna")).status_code == 204
    await catch_up(sweeping)
    assert await tables_with(sweeping, ADDRESS, OWN) == set()
    assert await tables_with(sweeping, TEXT) == HOLD_TEXT - {"notifications.inbound_emails"}
    assert await files_with(sweeping, files_url) == 2


async def test_a_user_deleted_with_content_leaves_nothing(
    world: tuple[Sweeper, str, Caller, Caller], files_url: str
) -> None:
    sweeping, _, _, shop = world
    assert (await shop.call("DELETE", "/users/anna?content=true")).status_code == 204
    await catch_up(sweeping)
    assert await tables_with(sweeping, TEXT, ADDRESS, OWN) == set()
    assert await files_with(sweeping, files_url) == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_removed_message_leaves_its_text_nowhere(
    world: tuple[Sweeper, str, Caller, Caller], files_url: str, *, late: bool
) -> None:
    sweeping, conversation, sam, _ = world
    removed = "m4rker-removed"
    file = await sam.upload(f"{TEXT} {removed}".encode(), f"{removed}.txt")
    files = await files_with(sweeping, files_url)
    message = await sam.post(conversation, removed, attachments=[file["id"]])
    if not late:
        await catch_up(sweeping)
        assert len(await tables_with(sweeping, removed)) == 5
        event = posted(UUID(conversation), 9, body=removed)
        assert event.payload is not None
        event.payload["message"]["id"] = message["id"]
        await park_event(sweeping.notifications, event.id, event.type, "a test", event.model_dump(mode="json"))
        assert "notifications.inbox" in await tables_with(sweeping, removed)
    assert (await sam.call("DELETE", f"/conversations/{conversation}/messages/{message['id']}")).status_code == 204
    await catch_up(sweeping)
    assert await tables_with(sweeping, removed) == set()
    assert await files_with(sweeping, files_url) == files - 1


async def test_a_deleted_note_leaves_its_text_nowhere(world: tuple[Sweeper, str, Caller, Caller]) -> None:
    sweeping, conversation, sam, _ = world
    deleted = "m4rkernote"
    note = {"body": f"{TEXT} {deleted}", "mentions": ["kim"]}
    note_id = (await sam.call("POST", f"/conversations/{conversation}/notes", note)).json()["id"]
    await catch_up(sweeping)
    in_notifications = {"notifications.admin_notifications", "notifications.email_messages"}
    in_conversations = {"conversations.conversation_entries", "conversations.events", "conversations.note_search"}
    assert await tables_with(sweeping, deleted) == in_notifications | in_conversations
    event = posted(UUID(conversation), 9, body=deleted)
    await park_event(sweeping.notifications, event.id, "note.posted", "a test", {"note_id": note_id, "body": deleted})
    assert (await sam.call("DELETE", f"/conversations/{conversation}/notes/{note_id}")).status_code == 204
    await catch_up(sweeping)
    assert await tables_with(sweeping, deleted) == set()
