"""The audit is read newest first, by those who may, and reads of conversations are in it once an hour."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from sqlalchemy import text

from services.conversations.app import create_app
from services.conversations.audit import reads
from services.conversations.audit.reads import HOUR, ReadLog
from services.conversations.audit.retention import keep_partitions
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.waiting import eventually
from tests.service.audit.test_recording import empty_audit, told
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import UNKNOWN_ID, Caller, problem
from tests.service.helpers.connected import client_of, connect
from tests.service.helpers.inbox_pages import signed_in

__all__ = ["empty_audit"]

CONVERSATION, OTHER = UUID(UNKNOWN_ID), UUID("01900000-0000-7000-8000-000000000001")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp() // HOUR * HOUR

    def __call__(self) -> float:
        return self.now


async def test_pages_are_newest_first_and_filters_combine(anna: Caller, sam: Caller, kim: Caller) -> None:
    ids = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    for caller, conversation in (sam, ids[0]), (kim, ids[0]), (sam, ids[1]):
        for status in ("RESOLVED", "OPEN"):
            await caller.edit(conversation, status=status)
    await sam.call("PUT", f"/conversations/{ids[0]}/assignee", {"admin_id": "kim"})
    everything = [item for page in await sam.pages("/audit", limit="2") for item in page]
    assert len(everything) == 7
    assert [item["at"] for item in everything] == sorted((item["at"] for item in everything), reverse=True)
    assert everything[0] | {"id": None, "at": None, "request_id": None} == {
        "id": None,
        "at": None,
        "actor_id": "sam",
        "actor_role": "admin",
        "action": "conversation.assignment",
        "conversation_id": ids[0],
        "target_id": None,
        "data": {"from": None, "to": "kim"},
        "address": "127.0.0.1",
        "request_id": None,
    }
    for filters, count in (
        ({"actor": "sam"}, 5),
        ({"conversation_id": ids[0]}, 5),
        ({"action": "conversation.status"}, 6),
        ({"actor": "sam", "conversation_id": ids[0], "action": "conversation.status"}, 2),
        ({"actor": "nobody"}, 0),
        ({"actor": "chats people"}, 0),
    ):
        assert sum(map(len, await sam.pages("/audit", limit="2", **filters))) == count
    cursor = (await sam.get("/audit", limit="1"))["next_cursor"]
    answer = await sam.call("GET", "/audit", params={"limit": 1, "actor": "sam", "cursor": cursor})
    assert problem(answer) == (422, "validation-failed")
    assert problem(await sam.call("GET", "/audit", params={"action": "nonsense"})) == (422, "validation-failed")


async def test_reads_are_recorded_once_an_hour_for_each_admin_and_conversation(
    api: httpx2.AsyncClient, anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    other = (await anna.open(body="Hello?"))["id"]
    log: ReadLog = api._transport.app.state.reads  # type: ignore[attr-defined] # noqa: SLF001 - the application
    for _ in range(2):
        await sam.get(f"/conversations/{conversation}")
        await sam.peek(conversation)
        await sam.get(f"/conversations/{conversation}/messages")
        await sam.get(f"/conversations/{conversation}/timeline")
        await log.flush()
    async with signed_in(api) as browser:
        await browser.get(f"/admin/dashboard/conversation/{conversation}/")
        await browser.get(f"/admin/dashboard/conversation/{other}/?peek=true")
    await kim.get(f"/conversations/{conversation}/messages")
    file = await anna.upload()
    await anna.post(other, attachments=[file["id"]])
    for caller in (kim, anna):
        downloaded = await api.get(f"/api/v1/attachments/{file['id']}", headers=caller.headers)
        assert downloaded.status_code == 200
    await anna.get(f"/conversations/{other}/messages")
    await sam.call("GET", f"/conversations/{UNKNOWN_ID}")
    await sam.call("GET", f"/conversations/{UNKNOWN_ID}/messages")
    await log.flush()
    rows = await told(conversations, action="conversation.read")
    assert sorted(row[:3] for row in rows) == sorted(
        [
            ("kim", "conversation.read", conversation),
            ("kim", "conversation.read", other),
            ("sam", "conversation.read", conversation),
            ("sam", "conversation.read", other),
        ]
    )
    async with conversations() as session:
        moments = await session.scalars(
            text("select date_trunc('hour', at) = at from audit_entries where action = 'conversation.read'")
        )
        assert set(moments) == {True}


async def test_two_processes_write_one_row_and_the_next_hour_another(conversations: SessionFactory) -> None:
    clock = Clock()
    logs = [ReadLog(conversations, clock) for _ in range(2)]
    for _ in range(2):
        for log in logs:
            log.note("sam", CONVERSATION)
            log.note("sam", OTHER)
            await log.flush()
    assert len(await told(conversations)) == 2
    clock.now += HOUR
    for log in logs:
        log.note("sam", CONVERSATION)
        await log.flush()
    assert len(await told(conversations)) == 3


async def test_reads_wait_for_a_database_that_is_away_up_to_a_limit(
    conversations: SessionFactory, owner_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "MAX_PENDING", 2)
    log = ReadLog(conversations, Clock())
    owner = await asyncpg.connect(owner_urls["conversations"])
    await owner.execute("revoke insert on audit_entries from conversations")
    log.note("sam", CONVERSATION)
    with pytest.raises(Exception, match="permission denied"):
        await log.flush()
    log.note("sam", OTHER)
    log.note("kim", OTHER)
    await owner.execute("grant insert on audit_entries to conversations")
    await owner.close()
    await log.flush()
    assert {row[:3] for row in await told(conversations)} == {
        ("sam", "conversation.read", str(CONVERSATION)),
        ("sam", "conversation.read", str(OTHER)),
    }


async def test_reads_are_written_every_few_seconds_and_when_the_process_stops(
    conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "FLUSH_EVERY", 0.01)
    log = ReadLog(conversations, Clock())
    running = asyncio.create_task(log.run())
    log.note("sam", CONVERSATION)

    async def is_written() -> bool:
        return len(await told(conversations)) == 1

    assert await eventually(is_written)
    log.note("sam", OTHER)
    running.cancel()  # before it runs again
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await told(conversations)) == 2


async def test_old_months_are_dropped_as_a_whole_and_the_next_ones_are_there(
    conversations: SessionFactory, owner_urls: dict[str, str]
) -> None:
    owner = await asyncpg.connect(owner_urls["conversations"])
    await owner.execute("""
        create table audit_entries_2020_01 partition of audit_entries
        for values from ('2020-01-01 00:00+00') to ('2020-02-01 00:00+00')
    """)
    now = datetime.now(UTC)
    recent = now.replace(day=1) - timedelta(days=1)
    first, last = recent.replace(day=1).date(), now.replace(day=1).date()
    await owner.execute(f"""
        create table audit_entries_{first:%Y_%m} partition of audit_entries
        for values from ('{first} 00:00+00') to ('{last} 00:00+00')
    """)

    async def partitions() -> set[str]:
        rows = await owner.fetch("""
            select relname from pg_inherits join pg_class on pg_class.oid = inhrelid
            where inhparent = 'audit_entries'::regclass
        """)
        return {row["relname"] for row in rows}

    async def keep(days: float) -> int:
        async with transaction(conversations) as session:
            return await keep_partitions(session, days)

    assert await keep(36_500) == 0
    assert await keep(365) == 1
    assert await keep(0) == 0  # nothing younger than a month is ever dropped
    names = await partitions()
    assert {f"audit_entries_{first:%Y_%m}", f"audit_entries_{last:%Y_%m}", "audit_entries_default"} <= names
    assert len(names) == 1 + 1 + 4
    await owner.execute(f"drop table audit_entries_{first:%Y_%m}")
    await owner.close()


async def test_an_act_of_a_month_without_a_partition_is_kept_all_the_same(
    conversations: SessionFactory, owner_urls: dict[str, str]
) -> None:
    async with transaction(conversations) as session:
        await session.execute(
            text(
                "insert into audit_entries (at, actor_id, actor_role, action) values ('2100-01-01', 'a', 'admin', 'b')"
            )
        )
    assert await told(conversations) == [("a", "b", None, None, None)]
    owner = await asyncpg.connect(owner_urls["conversations"])
    assert await owner.fetchval("select count(*) from audit_entries_default") == 1
    await owner.close()


@pytest.mark.parametrize(("permissions", "status"), [([], 403), (["reports", "operations"], 403), (["audit"], 200)])
async def test_the_audit_needs_its_permission(
    conversations: SessionFactory, databases: dict[str, str], acting_as: As, permissions: list[str], status: int
) -> None:
    settings: Any = ApiSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        redis_url=None,
        auth_permissions_claim="permissions",
    )
    app = create_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        caller = Caller(client, "/api/v1/admin", acting_as("sam", "admin", permissions=permissions))
        assert (await caller.call("GET", "/audit")).status_code == status
