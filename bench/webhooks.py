"""Measure webhooks: `python -m bench.webhooks`, DELIVERIES=4000, ROUNDS=6, FAILING=10000, WIDTH=10.

A store's endpoint in a process of its own answers 204. In alternating rounds, a bare loop of httpx posts bodies of the
same size, `WIDTH` at a time, and the dispatcher of `chats jobs` reads the log into rows, sends as many at a time, and
records each outcome. Then an endpoint refuses a third of all requests, by status or by hanging up: `FAILING` deliveries
of a thousand conversations must all arrive, each conversation in order.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx2

from deploy.cli import SERVICES
from deploy.local.ports import free_ports
from deploy.local.postgres import create_databases, throwaway_postgres
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging.posting import Post, post_messages
from services.conversations.rules import Side
from services.conversations.webhooks import dispatcher as webhooks
from services.conversations.webhooks.sending import Sender
from services.conversations.webhooks.signing import make_secret, sign
from shared.database.engine import create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import (
    SessionFactory,
    connection_provider,
    create_sessions,
    transaction,
    transaction_driver,
)
from shared.observability.logs import configure_logging
from tests.helpers.webhook_receiver import Answer, Received, Receiver, webhook_receiver

DELIVERIES = int(os.environ.get("DELIVERIES", "4000"))
ROUNDS = int(os.environ.get("ROUNDS", "6"))
FAILING = int(os.environ.get("FAILING", "10000"))
WIDTH = int(os.environ.get("WIDTH", "10"))
TALKS = 1_000
BODY = "We will look into it, and write to you as soon as we know more about your parcel."
RETRIES = (0, *[0.1] * 29)


async def main() -> None:
    """Fill, measure and print."""
    configure_logging("bench", "error")
    webhooks.PER_WEBHOOK = WIDTH  # type: ignore[misc] # a constant but here
    with tempfile.TemporaryDirectory() as directory:
        async with throwaway_postgres(Path(directory) / "postgres") as server:
            await create_databases(server, {"conversations": "bench"})
            url = server.url("conversations", "conversations", "bench")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
            superuser = await asyncpg.connect(server.url("conversations"))
            await superuser.execute(_PEOPLE)
            ids = [row["id"] for row in await superuser.fetch(_TALKS, TALKS)]
            await _speed(url, superuser, ids)
            await _failing(url, superuser, ids)
            await superuser.close()


async def _speed(url: str, superuser: asyncpg.Connection, ids: list[UUID]) -> None:
    [port] = free_ports([0])
    endpoint = subprocess.Popen([sys.executable, "-m", "bench.webhooks", "endpoint", str(port)])  # noqa: ASYNC220, S603 - our own
    try:
        target = f"http://127.0.0.1:{port}/hooks"
        await _answers(target)
        ratios = []
        for turn in range(ROUNDS + 1):
            bare, bare_cpu = await _bare(target)
            seconds, cpu = await _ours(url, superuser, ids, target)
            if turn:  # the first one warms up
                ratios.append((bare / seconds, bare_cpu / cpu))
            print(
                f"{'warm-up' if not turn else f'round {turn}'}: bare httpx {DELIVERIES / bare:,.0f} a second"
                f" ({bare_cpu / DELIVERIES * 1e6:,.0f} µs CPU each),"
                f" webhooks {DELIVERIES / seconds:,.0f} a second ({cpu / DELIVERIES * 1e6:,.0f} µs CPU each),"
                f" {bare / seconds:.2f} of it"
            )
        rate, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
        print(f"webhooks: {rate:.2f} of a bare httpx loop's rate, {cpu:.2f} by CPU time (medians of {len(ratios)})")
    finally:
        endpoint.terminate()
        endpoint.wait()


async def _bare(target: str) -> tuple[float, float]:
    """Post signed bodies with httpx; return the seconds, and the CPU time."""
    secret, left = make_secret(), DELIVERIES
    body = b'{"type":"message.posted","data":{"body":"' + BODY.encode() + b'"}}' + b" " * 600
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False) as client:

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                moment = int(time.time())
                headers = {"webhook-id": "x", "webhook-timestamp": str(moment), "content-type": "application/json"}
                headers["webhook-signature"] = sign([secret], "x", moment, body)
                response = await client.post(target, content=body, headers=headers)
                assert response.status_code == 204

        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(WIDTH)))
        return time.perf_counter() - started, time.process_time() - cpu


async def _ours(url: str, superuser: asyncpg.Connection, ids: list[UUID], target: str) -> tuple[float, float]:
    """Send what has happened; return the seconds, and this process's own CPU time."""
    await superuser.execute("truncate webhooks, webhook_deliveries")
    await superuser.execute(_WEBHOOK, target, make_secret())
    await _post(url, ids, DELIVERIES)
    async with _running(url, (0, 5)):
        started, cpu = time.perf_counter(), time.process_time()
        await _delivered(superuser, DELIVERIES)
        return time.perf_counter() - started, time.process_time() - cpu


async def _failing(url: str, superuser: asyncpg.Connection, ids: list[UUID]) -> None:
    chance = random.Random(2026)

    def answer(_: Received) -> Answer:
        if chance.random() >= 1 / 3:
            return Answer()
        return Answer(chance.choice([500, 429, 302]), hang_up=chance.random() < 0.3)

    async with webhook_receiver(answer) as receiver:
        await superuser.execute("truncate webhooks, webhook_deliveries")
        await superuser.execute(_WEBHOOK, receiver.url, make_secret())
        first = {row["id"]: row["message_count"] + 1 for row in await superuser.fetch(_COUNTS)}
        await _post(url, ids, FAILING)
        started = time.perf_counter()
        async with _running(url, RETRIES):
            await _delivered(superuser, FAILING)
        _check(receiver, first)
        failed = await superuser.fetchval("select count(*) from webhook_deliveries where state <> 'delivered'")
        assert failed == 0
        attempts = len(receiver.received)
        print(
            f"{FAILING:,} deliveries of {TALKS:,} conversations to an endpoint that failed"
            f" {1 - len(receiver.accepted) / attempts:.0%} of {attempts:,} attempts: all arrived, each conversation in"
            f" order, {len(receiver.accepted) - FAILING} twice, in {time.perf_counter() - started:.0f} s"
        )


def _check(receiver: Receiver, first: dict[UUID, int]) -> None:
    """Assert that everything has arrived, in order."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for request in receiver.accepted:
        message = request.data["message"]
        numbers[message["conversation_id"]].append(message["number"])
    assert len({request.id for request in receiver.accepted}) == FAILING
    for conversation_id, arrived in numbers.items():
        expected = first[UUID(conversation_id)]
        for number in arrived:
            assert number in {expected, expected - 1}, (conversation_id, arrived)  # a repeat is of the last one
            expected = max(expected, number + 1)


@asynccontextmanager
async def _running(url: str, schedule: tuple[float, ...]) -> AsyncIterator[None]:
    engine = create_engine(url, application="bench", pool_size=6)
    sender, stop = Sender(frozenset({"127.0.0.1"})), asyncio.Event()
    dispatcher = webhooks.Dispatcher(create_sessions(engine), connection_provider(engine), sender, schedule)
    task = asyncio.create_task(dispatcher.run(stop))
    yield
    stop.set()
    await task
    await sender.close()
    await engine.dispose()


async def _post(url: str, ids: list[UUID], count: int) -> None:
    engine = create_engine(url, application="bench", pool_size=2)
    sessions: SessionFactory = create_sessions(engine)
    async with connection_provider(engine)() as driver:
        for start in range(0, count, 100):
            chosen = [ids[(start + n) % len(ids)] for n in range(min(100, count - start))]
            saved = await post_messages(driver, [Post(each, "sam", Side.ADMIN, BODY) for each in chosen])
            assert len(saved) == len(chosen)
    numbered = True
    while numbered:
        async with transaction(sessions) as session:
            numbered = bool(await number_events(await transaction_driver(session), size=200))
    await engine.dispose()


async def _delivered(superuser: asyncpg.Connection, count: int) -> None:
    while await superuser.fetchval(_DELIVERED) < count:  # noqa: ASYNC110 - the database has no event
        await asyncio.sleep(0.05)


async def _answers(target: str) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        for _ in range(600):
            try:
                await client.post(target)
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
            else:
                return
    raise TimeoutError


async def _serve(port: int) -> None:
    """Answer 204 to everything, keeping nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length or 0))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


_PEOPLE = "insert into users (id, role, name) values ('anna', 'customer', 'Anna'), ('sam', 'admin', 'Sam')"
_TALKS = """
    insert into conversations (
        user_id, subject, status, is_read_by_admin, is_read_by_user, created_at, last_activity_at, changed_at
    )
    select 'anna', 'Where is it?', 'AWAITING_USER', false, true, now(), now(), now() from generate_series(1, $1)
    returning id
"""
_WEBHOOK = """
    insert into webhooks (url, types, secret, after_position)
    select $1, array['message.posted'], $2, head from feed
"""
_DELIVERED = "select count(*) from webhook_deliveries where state = 'delivered'"
_COUNTS = "select id, message_count from conversations"


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[2])) if sys.argv[1:2] == ["endpoint"] else main())
