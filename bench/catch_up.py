"""Measure how fast the sweeper catches up on unhandled events: `python -m bench.catch_up`, EVENTS=100000.

Real processes (api and sweeper) on a PostgreSQL of their own; no worker and no relay. Half of the events are admins'
messages, a tenth are reads, the rest are customers' messages, in a tenth as many conversations. The yardstick, in the
same run, writes as many notifications, emails and messages of emails directly with COPY.
"""

import asyncio
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from shared.events import EventType
from tests.system.helpers.product import Product, running_product

EVENTS = int(os.environ.get("EVENTS", "100000"))


async def main() -> None:
    """Fill the log, start the sweeper, wait until it has caught up, and print."""
    # No email becomes due during the run: only events are measured.
    settings = {"CHATS_SMTP_URL": "smtp://127.0.0.1:9", "CHATS_EMAIL_DELAY_SECONDS": "86400"}
    with tempfile.TemporaryDirectory() as directory:
        async with running_product(Path(directory), **settings) as product:
            conversations = await asyncpg.connect(product.owner_urls["conversations"])
            notifications = await asyncpg.connect(product.owner_urls["notifications"])
            rows = _events(EVENTS)
            yardstick = await _yardstick(notifications, rows)
            await _fill(conversations, rows)
            await product.start("api", "sweeper")
            seconds, cpu, peak = await _caught_up(product, notifications)
            records = await notifications.fetchval("select count(*) from notifications")
            await conversations.close()
            await notifications.close()
    assert records == EVENTS // 2, f"{records} records of {EVENTS // 2}"
    print(f"events                {EVENTS}")
    print(f"caught up after       {seconds:.1f} s, {EVENTS / seconds:.0f} events/s")
    print(f"yardstick (COPY)      {yardstick:.1f} s, ratio {yardstick / seconds:.2f}")
    print(f"sweeper               {cpu / EVENTS * 1e6:.0f} µs of CPU an event, {peak / 2**20:.0f} MiB at most")


def _events(count: int) -> list[tuple[UUID, EventType, str, dict[str, object]]]:
    """Return events as (id, type, customer, payload)."""
    talks = [(str(uuid4()), f"customer-{number // 3}") for number in range(max(count // 10, 1))]
    numbers = [0] * len(talks)
    sam = {"id": "sam", "version": 1, "name": "Sam", "email": None, "deleted": False}
    rows: list[tuple[UUID, EventType, str, dict[str, object]]] = []
    for index in range(count):
        talk = index % len(talks)
        conversation, customer = talks[talk]
        turn = index // len(talks)
        if turn == 9:
            payload: dict[str, object] = {"conversation_id": conversation, "by": "user", "up_to": 4}
            rows.append((uuid4(), EventType.CONVERSATION_READ, customer, payload))
            continue
        numbers[talk] += 1
        anna = {"id": customer, "version": 1, "name": customer, "email": f"{customer}@shop.test", "deleted": False}
        by_admin = turn < 5
        message = {
            "id": str(uuid4()),
            "number": numbers[talk],
            "sender_role": "admin" if by_admin else "customer",
            "body": "Your parcel left our warehouse this morning and should be with you on Thursday. " * 3,
            "created_at": datetime.now(UTC).isoformat(),
        }
        payload = {"conversation_id": conversation, "subject": "Where is my parcel?", "message": message}
        payload |= {"sender": sam if by_admin else anna, "customer": anna}
        rows.append((uuid4(), EventType.MESSAGE_POSTED, customer, payload))
    return rows


async def _fill(
    connection: "asyncpg.Connection[asyncpg.Record]", rows: list[tuple[UUID, EventType, str, dict[str, object]]]
) -> None:
    now = datetime.now(UTC)
    records = [
        (event_id, position, str(kind), customer, json.dumps(payload), now)
        for position, (event_id, kind, customer, payload) in enumerate(rows, 1)
    ]
    columns = ["id", "position", "type", "user_id", "payload", "numbered_at"]
    await connection.copy_records_to_table("events", records=records, columns=columns)
    await connection.execute("update feed set head = $1", len(rows))


async def _yardstick(
    connection: "asyncpg.Connection[asyncpg.Record]", rows: list[tuple[UUID, EventType, str, dict[str, object]]]
) -> float:
    """Write the minimum that catching up has to write, in pages of 500 with a commit each; delete it again."""
    now, started = datetime.now(UTC), time.perf_counter()
    for start in range(0, len(rows), 500):
        page = rows[start : start + 500]
        inbox = [(event_id, str(kind), now) for event_id, kind, _, _ in page]
        records = [(customer, uuid4(), uuid4(), 1, "s", "sam", "p") for _, _, customer, _ in page[::2]]
        emails = [("customer", customer, uuid4(), "scheduled", now, now) for _, _, customer, _ in page[::10]]
        async with connection.transaction():
            await connection.copy_records_to_table("inbox", records=inbox, columns=["event_id", "type", "handled_at"])
            await connection.copy_records_to_table(
                "notifications",
                records=records,
                columns=["user_id", "conversation_id", "message_id", "number", "subject", "sender_id", "preview"],
            )
            columns = ["audience", "recipient_id", "conversation_id", "state", "due_at", "next_attempt_at"]
            await connection.copy_records_to_table("emails", records=emails, columns=columns)
    seconds = time.perf_counter() - started
    await connection.execute("truncate inbox, notifications, emails cascade")
    return seconds


async def _caught_up(product: Product, connection: "asyncpg.Connection[asyncpg.Record]") -> tuple[float, float, int]:
    """Wait until the sweeper has caught up; return the seconds, its CPU seconds, and its peak memory."""
    started, peak = time.perf_counter(), 0
    [process, *_] = product.family("sweeper")
    while await connection.fetchval("select position from feed_cursor") < EVENTS:
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.2)
    used = process.cpu_times()
    return time.perf_counter() - started, used.user + used.system, peak


if __name__ == "__main__":
    asyncio.run(main())
