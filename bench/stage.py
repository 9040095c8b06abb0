"""The whole product with conversations and a sink for its emails, for the benchmarks of the pipeline."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import psutil

from bench.sink import Sink, running_sink
from tests.system.helpers.product import Product, bare_product, headers_of

CUSTOMERS = 5_000
BODY = "Your parcel left our warehouse this morning and should be with you on Thursday. " * 3
OURS = ("api", "notifications-api", "relay", "jobs", "worker", "sweeper")

_PREPARE = """
insert into users (id, role, name, email, synced_at)
select 'C-' || n, 'customer', 'Customer ' || n, 'c-' || n || '@customer.test', now() from generate_series(0, $1 - 1) n
"""
_TALKS = """
insert into conversations (id, user_id, subject, status, is_read_by_admin, is_read_by_user, message_count,
    last_customer_number, last_message_id, last_message_role, last_message_preview,
    created_at, last_activity_at, changed_at, unanswered_since)
select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'C-' || n % $2, 'Where is my parcel?',
    'OPEN', false, true, 1, 1, ('00000000-0000-7000-8001-' || lpad(n::text, 12, '0'))::uuid, 'customer', 'Where is it?',
    moment, moment, moment, moment
from (select n, now() - interval '1 second' * ($1 - n) as moment from generate_series(0, $1 - 1) n) as each
"""
_MESSAGES = """
insert into messages (id, conversation_id, number, sender_id, sender_role, body, created_at)
select last_message_id, id, 1, user_id, 'customer', last_message_preview, created_at from conversations
"""


def talk(number: int) -> str:
    """Return the id of a prepared conversation."""
    return f"00000000-0000-7000-8000-{number:012}"


@dataclass
class Stage:
    """The product, and the sink of its emails."""

    product: Product
    sink: Sink
    conversations: "asyncpg.Connection[asyncpg.Record]"
    notifications: "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def running_stage(directory: Path, *, talks: int, **settings: str) -> AsyncIterator[Stage]:
    """Run databases and broker with `talks` conversations; the benchmark starts the product's processes."""
    values = {"CHATS_EMAIL_DELAY_SECONDS": "0", "CHATS_LOG_LEVEL": "warning"} | settings
    async with (
        running_sink(directory) as sink,
        bare_product(directory, CHATS_SMTP_URL=sink.url, **values) as product,
    ):
        # As in production: commits reach the disk, pages are written whole. It also records the time of commits.
        product.database_options.clear()
        product.database_options["track_commit_timestamp"] = "on"
        await product.start("postgres")
        await product.create_databases()
        await product.migrate()
        await product.start("broker")
        server = product.superuser_url.removesuffix("/postgres")
        conversations = await asyncpg.connect(f"{server}/conversations")
        notifications = await asyncpg.connect(f"{server}/notifications")
        await conversations.execute(_PREPARE, CUSTOMERS)
        await conversations.execute(_TALKS, talks, CUSTOMERS)
        await conversations.execute(_MESSAGES)
        await conversations.execute("insert into users (id, role, name) values ('sam', 'admin', 'Sam')")
        await conversations.execute("vacuum analyze")
        yield Stage(product, sink, conversations, notifications)
        await conversations.close()
        await notifications.close()


def cpu_seconds(product: Product, name: str) -> float:
    """Return the CPU seconds of a process and its descendants, including ended ones."""
    used = 0.0
    for process in product.family(name):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used


@dataclass(frozen=True)
class Spent:
    """CPU seconds by process, and bytes of PostgreSQL's write-ahead log, up to a moment."""

    cpu: dict[str, float]
    wal: int

    def per(self, before: "Spent", messages: int) -> tuple[dict[str, float], float]:
        """Return what was spent since `before` for each message: milliseconds of CPU, and bytes of WAL."""
        cpu = {name: (self.cpu[name] - before.cpu[name]) * 1e3 / messages for name in self.cpu}
        return cpu, (self.wal - before.wal) / messages


async def spent(stage: Stage, names: Iterable[str]) -> Spent:
    """Return what these processes, PostgreSQL and the broker have spent so far."""
    wal = await stage.conversations.fetchval("select pg_current_wal_lsn() - '0/0'::pg_lsn")
    return Spent({name: cpu_seconds(stage.product, name) for name in (*names, "postgres", "broker")}, int(wal))


class Line:
    """A connection over which an admin posts; requests are written by hand, to cost little CPU."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._token = headers_of("sam", "admin")["Authorization"]

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def reply(self, conversation: str, body: str) -> str:
        """Post a message; return its id."""
        content = json.dumps({"body": body}).encode()
        head = (
            f"POST /api/v1/admin/conversations/{conversation}/messages HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: {self._token}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {os.urandom(8).hex()}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            answer = await self._request(head.encode() + content)
        except (asyncio.IncompleteReadError, OSError):  # the server has closed the idle connection
            await self._connect()
            answer = await self._request(head.encode() + content)
        assert answer.startswith(b"http/1.1 201 "), answer
        length = int(answer.partition(b"content-length:")[2].split(b"\r\n")[0])
        return str(json.loads(await self._reader.readexactly(length))["id"])

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def _request(self, request: bytes) -> bytes:
        self._writer.write(request)
        return (await self._reader.readuntil(b"\r\n\r\n")).lower()
