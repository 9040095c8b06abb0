"""The jobs: copies of the process share their work, and an error in one job does not end the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2
import pytest
from sqlalchemy import text

from deploy.local.ports import free_ports
from services.conversations import jobs
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging import expiry
from services.conversations.settings import JobsSettings
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.helpers.clamd_peer import running_clamd
from tests.helpers.waiting import eventually
from tests.service.attachments.test_uploading import objects, set_settings
from tests.service.helpers.callers import Caller
from tests.service.messaging.test_erasure_batches import big, messages_of
from tests.service.messaging.test_quiet import age


@asynccontextmanager
async def running_jobs(url: str, copies: int = 1, **more: str) -> AsyncIterator[list[int]]:
    """Run copies of the process while the context is open; provide their ports."""
    stop, ports = asyncio.Event(), free_ports([0] * copies)
    settings = JobsSettings.model_validate({"conversations_database_url": url, "files_url": "file:///none", **more})
    tasks = [asyncio.create_task(jobs.run_jobs(settings, "127.0.0.1", port, stop)) for port in ports]
    try:
        yield ports
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def add_old_viewer(sessions: SessionFactory, conversation: str) -> None:
    """Add a row that the jobs purge."""
    async with transaction(sessions) as session:
        await session.execute(
            text("insert into viewers values (:id, 'sam', clock_timestamp() - interval '1 day')"), {"id": conversation}
        )


async def viewers(sessions: SessionFactory) -> int:
    async with sessions() as session:
        return int(await session.scalar(text("select count(*) from viewers")) or 0)


async def test_two_copies_erase_what_was_deleted_and_purge(
    anna: Caller, sam: Caller, conversations: SessionFactory, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ERASE_EVERY", 0.05)
    monkeypatch.setattr(jobs, "PURGE_EVERY", 0.05)
    conversation = await big(anna, sam, conversations)
    await add_old_viewer(conversations, conversation)
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204

    async def is_done() -> bool:
        return await viewers(conversations) == 0 and await messages_of(conversations, conversation) == 0

    async with running_jobs(databases["conversations"], copies=2) as ports, httpx2.AsyncClient(timeout=30) as client:
        await eventually(is_done)
        for port in ports:
            ready = await client.get(f"http://127.0.0.1:{port}/readyz")
            assert ready.json() == {"status": "ready"}
            metrics = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            assert "chats_database_usable 1.0" in metrics


async def test_an_error_in_one_job_does_not_end_the_others(
    anna: Caller, sam: Caller, conversations: SessionFactory, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ERASE_EVERY", 0.05)
    monkeypatch.setattr(jobs, "PURGE_EVERY", 0.05)
    failed = asyncio.Event()

    async def fail(*_: object, **__: object) -> int:
        failed.set()
        raise RuntimeError

    monkeypatch.setattr(jobs, "purge_events", fail)
    conversation = await big(anna, sam, conversations)
    await add_old_viewer(conversations, conversation)
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204

    async def is_done() -> bool:  # also a purge after the one that fails
        return await viewers(conversations) == 0 and await messages_of(conversations, conversation) == 0

    async with running_jobs(databases["conversations"]):
        await asyncio.wait_for(failed.wait(), 20)
        await eventually(is_done)


async def test_files_are_scanned_and_deleted(
    anna: Caller, sam: Caller, databases: dict[str, str], files_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SCAN_EVERY", 0.05)
    monkeypatch.setattr(jobs, "DELETE_FILES_EVERY", 0.05)
    async with running_clamd() as clamd:
        set_settings(anna, scan_url=clamd.url)
        conversation = (await anna.open(attachments=[(await anna.upload(b"Clean"))["id"]]))["id"]

        async def is_ready() -> bool:
            [message] = (await anna.get(f"/conversations/{conversation}/messages"))["items"]
            return bool(message["attachments"][0]["state"] == "ready")

        async with running_jobs(databases["conversations"], 2, files_url=files_url, scan_url=clamd.url):
            await eventually(is_ready)
            assert clamd.scanned == [b"Clean"]
            await sam.edit(conversation, status="CLOSED")
            assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
            await eventually(lambda: not objects(files_url))


async def test_conversations_are_indexed_for_search(
    anna: Caller, conversations: SessionFactory, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "INDEX_EVERY", 0.05)
    await anna.open(body="Hello?")
    async with transaction(conversations) as session:
        await session.execute(text("update search_progress set fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'"))

    async def is_indexed() -> bool:
        async with conversations() as session:
            progress = await session.scalar(text("select fill_before is null and filled = 1 from search_progress"))
            return progress is True and await session.scalar(text("select count(*) from conversation_search")) == 1

    async with running_jobs(databases["conversations"], copies=2):
        await eventually(is_indexed)


async def test_quiet_conversations_are_resolved_where_it_is_switched_on(
    anna: Caller, sam: Caller, databases: dict[str, str]
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation, "Does this help?")

    async def is_resolved() -> bool:
        return bool((await sam.peek(conversation))["status"] == "RESOLVED")

    async with running_jobs(databases["conversations"], auto_resolve_days="1e-9"):
        await eventually(is_resolved)


async def test_closed_conversations_are_deleted_in_batches_while_not_too_much_waits_to_be_erased(
    anna: Caller, sam: Caller, conversations: SessionFactory, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "EXPIRE_PAUSE", 0.05)
    monkeypatch.setattr(jobs, "EXPIRE_BATCH", 1)
    monkeypatch.setattr(expiry, "MAX_ERASING", 0)
    for _ in range(3):
        await sam.edit((await anna.open(body="Hello?"))["id"], status="CLOSED")
    await age(conversations, 8, "last_activity_at", "changed_at")
    waiting = "insert into erasures (user_id, event_id) values ('kim', uuidv7())"
    async with transaction(conversations) as session:
        await session.execute(text(waiting))

    async def is_done() -> bool:
        return not (await anna.get("/conversations"))["items"]

    async with (
        running_jobs(databases["conversations"], closed_retention_days="7") as [port],
        httpx2.AsyncClient(timeout=30) as c,
    ):
        await eventually(is_done)

        async def is_counted() -> bool:  # a moment after the commit
            return "chats_closed_expired_total 3.0" in (await c.get(f"http://127.0.0.1:{port}/metrics")).text

        await eventually(is_counted)


async def test_conversations_are_counted_and_old_months_of_the_audit_dropped(
    anna: Caller,
    conversations: SessionFactory,
    databases: dict[str, str],
    owner_urls: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("COUNT_EVERY", "PURGE_EVERY"):
        monkeypatch.setattr(jobs, name, 0.05)
    await anna.open(body="Hello?")
    owner = await asyncpg.connect(owner_urls["conversations"])
    await owner.execute("""
        create table audit_entries_2020_01 partition of audit_entries
        for values from ('2020-01-01 00:00+00') to ('2020-02-01 00:00+00')
    """)

    async def is_done() -> bool:
        async with transaction(conversations) as session:
            await number_events(await transaction_driver(session))
        counted = await owner.fetchval("select count(*) from conversation_facts")
        is_dropped = await owner.fetchval("select to_regclass('audit_entries_2020_01') is null")
        return counted == 1 and is_dropped is True

    async with running_jobs(databases["conversations"]):
        assert await eventually(is_done)
    await owner.close()
