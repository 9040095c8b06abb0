"""Each act leaves its row in the audit, in the same transaction, with ids only; and nobody can change a row."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from sqlalchemy import text

from deploy.cli import SERVICES
from deploy.local.postgres import Server, create_databases
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.callers import UNKNOWN_ID, Caller
from tests.service.helpers.inbox_pages import signed_in

REQUEST = "01900000-0000-7000-8000-00000000abcd"


@pytest.fixture(autouse=True)
async def empty_audit(owner_urls: dict[str, str], databases: dict[str, str]) -> AsyncIterator[None]:
    """Empty the audit, which only its owner can do."""
    assert databases
    owner = await asyncpg.connect(owner_urls["conversations"])
    await owner.execute("truncate audit_entries")
    yield
    await owner.execute("truncate audit_entries")
    await owner.close()


async def told(sessions: SessionFactory, **only: Any) -> list[tuple[Any, ...]]:
    """Return what the audit says: actor, action, conversation, target and data, oldest first."""
    query = "select actor_id, action, conversation_id::text, target_id, data from audit_entries"
    where = "".join(f" {'and' if number else 'where'} {name} = :{name}" for number, name in enumerate(only))
    async with sessions() as session:
        rows = await session.execute(text(f"{query}{where} order by at, id"), only)
        return [tuple(row) for row in rows]


async def test_acts_on_a_conversation_are_recorded_once_and_only_if_they_changed_something(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await anna.post(conversation, "Anybody?")
    reply = await sam.post(conversation, "Hello!")  # assigns to Sam, as part of the reply
    assert await told(conversations) == []

    for _ in range(2):
        await sam.edit(conversation, status="OPEN")
        await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": None})
        await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": ["Refund"]})
        await sam.call("DELETE", f"/conversations/{conversation}/messages/{reply['id']}")
    note = (await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "A secret"})).json()
    for _ in range(2):
        await sam.call("DELETE", f"/conversations/{conversation}/notes/{note['id']}")
    async with conversations() as session:
        label = await session.scalar(text("select id from labels"))
    assert await told(conversations) == [
        ("sam", "conversation.status", conversation, None, {"from": "AWAITING_USER", "to": "OPEN"}),
        ("sam", "conversation.assignment", conversation, None, {"from": "sam", "to": None}),
        ("sam", "conversation.labels", conversation, None, {"added": [label], "removed": []}),
        ("sam", "message.removed", conversation, reply["id"], None),
        ("sam", "note.deleted", conversation, note["id"], None),
    ]


async def test_a_status_with_a_reply_is_recorded_by_the_statement_that_posts(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    first, second = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    file = await sam.upload()
    await asyncio.gather(
        sam.edit(first, reply_body="Done", status="RESOLVED"),
        sam.edit(second, reply_body="Done", status="CLOSED", attachments=[file["id"]]),
        anna.open(body="Another one"),
    )
    await sam.edit(first, reply_body="Still done", status="RESOLVED")
    await sam.edit(first, reply_body="And more", status="KEEP")
    rows = {row[2]: row for row in await told(conversations)}
    assert rows == {
        first: ("sam", "conversation.status", first, None, {"from": "OPEN", "to": "RESOLVED"}),
        second: ("sam", "conversation.status", second, None, {"from": "OPEN", "to": "CLOSED"}),
    }
    assert len(await told(conversations)) == 2


async def test_a_refused_act_leaves_no_row(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    refused = await sam.call("DELETE", f"/conversations/{conversation}")
    assert refused.status_code == 409
    refused = await sam.call("PATCH", f"/conversations/{conversation}", {"status": "OPEN", "expected_status": "CLOSED"})
    assert refused.status_code == 409
    refused = await sam.call(
        "PATCH",
        f"/conversations/{conversation}",
        {"reply_body": "Done", "status": "CLOSED", "expected_status": "RESOLVED"},
    )
    assert refused.status_code == 409
    assert await told(conversations) == []


async def test_deletions_are_recorded_for_each_conversation_and_outlive_it(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    ids = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    items = [{"id": each, "seen_number": 1} for each in ids]
    assert (await kim.call("POST", "/conversations/bulk", {"items": items, "status": "CLOSED"})).json()["changed"] == 3
    assert (await sam.call("DELETE", f"/conversations/{ids[0]}")).status_code == 204
    answer = await sam.call("POST", "/conversations/bulk-delete", {"ids": [*ids[1:], UNKNOWN_ID]})
    assert answer.json() == {"deleted": 2}
    closed = await told(conversations, action="conversation.status")
    assert [row[0] for row in closed] == ["kim"] * 3
    assert {row[2] for row in closed} == set(ids)
    deleted = await told(conversations, action="conversation.deleted")
    assert [row[0] for row in deleted] == ["sam"] * 3
    assert {row[2] for row in deleted} == set(ids)


async def test_shared_texts_are_recorded_by_id(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await kim.call("PATCH", f"/conversations/{conversation}/labels", {"add": ["Secret"]})
    await sam.call("PATCH", "/labels/Secret", {"name": "Secrets"})
    await sam.call("DELETE", "/labels/Secrets")
    reply = {"shortcut": "secret", "title": "Secret", "body": "Secret"}
    created = (await sam.call("POST", "/canned-replies", reply, key="once")).json()["id"]
    await sam.call("POST", "/canned-replies", reply, key="once")
    await sam.call("PUT", f"/canned-replies/{created}", reply)
    await sam.call("DELETE", f"/canned-replies/{created}")
    async with conversations() as session:
        everything = "\n".join(await session.scalars(text("select t::text from audit_entries as t")))
    assert "secret" not in everything.lower()
    rows = await told(conversations, actor_id="sam")
    assert [row[1] for row in rows] == [
        *("label.renamed", "label.deleted"),
        *("canned-reply.created", "canned-reply.changed", "canned-reply.deleted"),
    ]
    assert {row[3] for row in rows[2:]} == {created}
    assert {UUID(created)} == {UUID(row[3]) for row in rows[2:]}


async def test_pages_record_as_the_api_does(
    api: httpx2.AsyncClient, anna: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    async with signed_in(api) as browser:
        path = f"/admin/dashboard/conversation/{conversation}/"
        csrf = browser.claims["csrf"]
        await browser.submit(path, csrf_token=csrf, status="CLOSED")
        await browser.submit(f"{path}delete/", csrf_token=csrf)
    rows = await told(conversations, conversation_id=UUID(conversation))
    assert [row[:2] for row in rows] == [("sam", "conversation.status"), ("sam", "conversation.deleted")]


async def test_an_admins_sessions_are_recorded_and_neither_customers_nor_refusals(
    api: httpx2.AsyncClient, conversations: SessionFactory
) -> None:
    browser = Browser(api)
    await browser.submit("/session", token=store_token("sam", "admin"))
    csrf = browser.claims["csrf"]
    await browser.submit("/session/end", csrf_token=csrf)
    await browser.submit("/session", token=store_token("sam", "admin"))
    await browser.submit("/session/end", csrf_token=browser.claims["csrf"], everywhere="true")
    await browser.submit("/session", token="nonsense")
    customer = Browser(api)
    await customer.submit("/session", token=store_token("anna"))
    await customer.submit("/session/end", csrf_token=customer.claims["csrf"])
    assert [(row[0], row[1], row[4]) for row in await told(conversations)] == [
        ("sam", "session.begun", None),
        ("sam", "session.ended", {"everywhere": False}),
        ("sam", "session.begun", None),
        ("sam", "session.ended", {"everywhere": True}),
    ]


async def test_what_the_store_deletes_is_recorded(anna: Caller, shop: Caller, conversations: SessionFactory) -> None:
    await anna.open(body="Hello?")
    await shop.call("DELETE", "/users/anna/sessions")
    await shop.call("DELETE", "/orders/o-1")
    await shop.call("DELETE", "/users/anna?content=true")
    async with conversations() as session:
        roles = set(await session.scalars(text("select actor_role from audit_entries")))
    assert roles == {"store"}
    assert await told(conversations) == [
        ("shop", "user.sessions-ended", None, "anna", None),
        ("shop", "order.deleted", None, "o-1", None),
        ("shop", "user.deleted", None, "anna", {"content": True}),
    ]


async def test_a_row_says_from_where_and_in_which_request(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.call("PATCH", f"/conversations/{conversation}", {"status": "CLOSED"}, headers={"X-Request-ID": REQUEST})
    async with conversations() as session:
        row = (await session.execute(text("select address, request_id::text from audit_entries"))).one()
    assert row == ("127.0.0.1", REQUEST)


async def test_an_act_that_is_rolled_back_leaves_no_row_and_without_the_audit_there_is_no_act(
    anna: Caller, sam: Caller, conversations: SessionFactory, postgres: Server
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    superuser = await asyncpg.connect(postgres.url("conversations"))
    await superuser.execute("revoke insert on audit_entries from conversations")
    try:
        for fields in ({"status": "CLOSED"}, {"reply_body": "Done", "status": "CLOSED"}):
            assert (await sam.call("PATCH", f"/conversations/{conversation}", fields)).status_code == 503
        await anna.post(conversation, "Customers write all the same")
    finally:
        await superuser.execute("grant insert on audit_entries to conversations")
        await superuser.close()
    assert (await sam.peek(conversation))["status"] == "AWAITING_ADMIN"
    assert await told(conversations) == []


CHANGES = ("update audit_entries set actor_id = 'nobody'", "delete from audit_entries", "truncate audit_entries")


@pytest.mark.parametrize("statement", CHANGES)
async def test_the_services_role_cannot_change_the_audit(
    sam: Caller, anna: Caller, databases: dict[str, str], statement: str
) -> None:
    await sam.edit((await anna.open(body="Hello?"))["id"], status="CLOSED")
    connection = await asyncpg.connect(databases["conversations"])
    partitions = await connection.fetch(
        "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " where inhparent = 'audit_entries'::regclass"
    )
    assert len(partitions) >= 5
    for table in ("audit_entries", *(row["relname"] for row in partitions)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.replace("audit_entries", table))
    assert await connection.fetchval("select count(*) from audit_entries") == 1
    await connection.close()


@pytest.mark.parametrize("statement", CHANGES[:2])
async def test_an_owner_that_is_the_services_role_cannot_change_rows_either(postgres: Server, statement: str) -> None:
    url = postgres.url("single", "single", "a")
    await create_databases(postgres, {"single": "a"})
    await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
    connection = await asyncpg.connect(url)
    await connection.execute("insert into audit_entries (actor_id, actor_role, action) values ('sam', 'admin', 'x')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await connection.execute(statement)
    await connection.execute("delete from labels")  # the others as before
    await connection.close()
