"""Measure ten thousand live streams on one process: `python -m bench.streams`, STREAMS=10000 ADMINS=500 ROUNDS=5.

Real processes (api, relay) on a PostgreSQL and a Valkey of their own; each round starts a new api: the memory of a
stream; the time from a POST to the customer's stream and to all admins' streams, at a steady rate; a storm in which all
connections drop and reconnect while posting goes on. Then every client must have received all its events, in order and
once. The yardstick (`bare_streams.py`) has its turn in each round. ALONE=1 leaves it out.
"""

import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import asyncpg
import psutil

from bench.bare_streams import ALL
from bench.crowd import Crowd, Poster
from deploy.local.ports import free_ports
from services.conversations.event_log.payloads import READ_MESSAGE_ID
from services.conversations.event_log.position import encode_position
from tests.helpers.waiting import eventually
from tests.system.helpers.product import Product, headers_of, running_product

STREAMS = int(os.environ.get("STREAMS", "10000"))
ADMINS = int(os.environ.get("ADMINS", str(STREAMS // 20)))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
RATES = (20, 100)  # posts a second
SECONDS = 5  # at each rate
BEFORE = 10  # posts before the streams open
STORM_RATE = 20  # posts a second during the storm
BODY = "Your parcel left our warehouse this morning and should be with you on Thursday. " * 2

Post = Callable[[int], Awaitable[str | None]]
"""Post something to a customer; return a name by which it is found later, None when it was rejected."""

_FILL = """
with people as (
    insert into users (id, role, name, email)
    select id, case left(id, 1) when 'a' then 'admin' else 'customer' end, upper(id), id || '@customer.test'
    from unnest($1::text[]) as id returning id, role
)
insert into conversations (user_id, subject, status, is_read_by_admin, is_read_by_user, created_at, last_activity_at,
    changed_at)
select id, 'Where is my parcel?', 'OPEN', false, true, now(), now(), now() from people where role = 'customer'
"""


@dataclass
class Figures:
    """The results by name; each round adds a value to each."""

    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, *figures: float) -> None:
        """Add values of this round."""
        self.values[name] += figures
        print(f"  {name:<44} {' '.join(f'{figure:.1f}' for figure in figures)}", flush=True)

    def add_times(self, name: str, seconds: list[float]) -> None:
        """Add the median and the 99th percentile, in milliseconds."""
        ordered = sorted(seconds)
        self.add(f"{name}, p50 ms", statistics.median(ordered) * 1000)
        self.add(f"{name}, p99 ms", ordered[int(len(ordered) * 0.99)] * 1000)


@dataclass
class Trial:
    """One server with its crowd, and how to post; `names` returns the event ids by the posts' names."""

    process: psutil.Process
    crowd: Crowd
    post: Post
    names: Callable[[], Awaitable[dict[str, bytes]]]
    posted: dict[str, float] = field(default_factory=dict)
    answered: list[float] = field(default_factory=list)
    turn: int = 0

    async def run(self, figures: Figures, name: str) -> None:
        """Open all streams, post at each rate, and run the storm."""
        await self.post_all(BEFORE, 1)  # allocations on first use do not belong to a stream
        self.posted.clear()
        before, used = self.process.memory_info().rss, self.cpu()
        figures.add(f"{name}: all opened, s", await self.crowd.open())
        figures.add(f"{name}: all opened, CPU s", self.cpu() - used)
        await asyncio.sleep(1)
        figures.add(f"{name}: memory of a stream, KiB", (self.process.memory_info().rss - before) / STREAMS / 1024)
        for rate in RATES:
            await self.post_all(rate, 1)
            posted, cpu = await self.post_all(rate, SECONDS)
            label, ids, crowd = f"{name}, {rate}/s", await self.all_received(), self.crowd
            figures.add_times(f"{label}: answered", self.answered)
            for recipient, at in (
                ("customer", crowd.reached),
                ("first admin", crowd.first),
                ("last admin", crowd.last),
            ):
                figures.add_times(
                    f"{label}: {recipient}", [at[ids[post]] - started for post, started in posted.items()]
                )
            figures.add(f"{label}: CPU, %", cpu / SECONDS * 100)
        storm = asyncio.create_task(self.crowd.storm())
        used, answered = self.cpu(), list[float]()
        while not storm.done():
            await self.post_all(STORM_RATE, 1)
            answered += self.answered
        figures.add(f"{name}: storm, all back after s", await storm)
        figures.add(f"{name}: storm, CPU s", self.cpu() - used)
        figures.add_times(f"{name}: storm, post answered", answered)
        figures.add(f"{name}: rejected and retried", self.crowd.refused)

    async def post_all(self, rate: int, seconds: float) -> tuple[dict[str, float], float]:
        """Post at a rate without waiting for responses; return when each post was due, and the CPU seconds."""
        started, used = perf_counter(), self.cpu()
        self.answered = []
        posted: dict[str, float] = {}

        async def post_one(due: float) -> None:
            self.turn += 1
            if (name := await self.post(self.turn)) is not None:
                posted[name] = due
            self.answered.append(perf_counter() - due)  # from when it was due, even if it started late

        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = started + number / rate
                await asyncio.sleep(max(0, due - perf_counter()))
                group.create_task(post_one(due))
        assert len(posted) == int(rate * seconds), "posts were refused"
        self.posted |= posted
        return posted, self.cpu() - used

    def cpu(self) -> float:
        """Return the CPU seconds that the server has used."""
        used = self.process.cpu_times()
        return used.user + used.system

    async def all_received(self) -> dict[str, bytes]:
        """Wait until all posts have reached all their recipients; return the events' ids."""

        async def numbered() -> dict[str, bytes] | None:
            ids = await self.names()
            return ids if self.posted.keys() <= ids.keys() else None

        ids, crowd = await eventually(numbered, deadline=60), self.crowd
        await eventually(
            lambda: all(ids[name] in crowd.reached and crowd.times[ids[name]] == ADMINS for name in self.posted),
            deadline=60,
        )
        return ids


@asynccontextmanager
async def ours(product: Product, database: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[Trial]:
    """Start an api with a crowd. At the end, compare what each client received with the log."""
    await product.start("api")
    people = [f"a{n}" for n in range(ADMINS)], [f"c{n}" for n in range(STREAMS - ADMINS)]
    server = ("127.0.0.1", product.ports["api"])
    [(epoch, before)] = await database.fetch("select epoch, head from feed")
    few, many = ([_stream_request(person) for person in side] for side in people)
    crowd, poster = Crowd(server, few, many), Poster(server)
    talks = {row[0]: row[1] for row in await database.fetch("select user_id, id from conversations")}
    admin = f"Authorization: {_headers('a0')['Authorization']}\r\nContent-Type: application/json\r\n"
    body = json.dumps({"body": BODY}).encode()

    async def post(turn: int) -> str | None:
        customer = people[1][turn * 7 % len(people[1])]
        status, answer = await poster.post(f"/api/v1/admin/conversations/{talks[customer]}/messages", admin, body)
        return json.loads(answer)["id"] if status == 201 else None

    async def rows() -> list[tuple[str, str, bytes]]:
        query = f"""
            select user_id, {READ_MESSAGE_ID}::text, position from events where position > $1 order by position
        """  # noqa: S608 - built from constants
        return [
            (row[0], row[1], encode_position(epoch, row[2]).encode()) for row in await database.fetch(query, before)
        ]

    async def names() -> dict[str, bytes]:
        return {message: event_id for _, message, event_id in await rows()}

    trial = Trial(product.family("api")[0], crowd, post, names)
    yield trial
    await trial.all_received()
    received = dict(zip([*people[0], *people[1]], [client.heard for client in (*crowd.few, *crowd.many)], strict=True))
    log = await rows()
    own = defaultdict(list)
    for user_id, _, event_id in log:
        own[user_id].append(event_id)
    own |= {person: [event_id for _, _, event_id in log] for person in people[0]}
    for person, events in received.items():
        expected = own[person][-len(events) or len(own[person]) :]  # the first ones came before the streams were open
        assert events == expected, f"{person} received {len(events)} events, but not the expected ones"
    assert len(own["a0"]) - len(received["a0"]) == BEFORE, "an admin missed posts"
    assert crowd.resets == 0, "a client was told to reload"
    crowd.drop()
    poster.close()
    await product.kill("api")


@asynccontextmanager
async def yardstick() -> AsyncIterator[Trial]:
    """Start the yardstick with a crowd."""
    [port] = free_ports([0])
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bare_streams", str(port))
    server, count = ("127.0.0.1", port), STREAMS - ADMINS
    request = "GET /stream?of={} HTTP/1.1\r\nHost: bench\r\n"
    crowd = Crowd(server, [request.format(ALL).encode()] * ADMINS, [request.format(n).encode() for n in range(count)])
    poster, ids = Poster(server), {}
    event = f'event: message.posted\ndata: {{"body":"{"x" * 1100}"}}\nid: '.encode()

    async def post(turn: int) -> str | None:
        ids[str(turn)] = b"%032d" % turn
        status, _ = await poster.post(f"/post?to={turn * 7 % count}", "", event + ids[str(turn)] + b"\n\n")
        return str(turn) if status == 201 else None

    async def names() -> dict[str, bytes]:
        return ids

    async def listens() -> bool:
        try:
            (await asyncio.open_connection(*server))[1].close()
        except OSError:
            return False
        return True

    try:
        await eventually(listens, deadline=30)
        yield Trial(psutil.Process(process.pid), crowd, post, names)
    finally:
        crowd.drop()
        poster.close()
        process.kill()
        await process.wait()


async def main() -> None:
    """Measure both in turn, and print the medians."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = Figures()
    with tempfile.TemporaryDirectory() as directory:
        async with running_product(Path(directory)) as product:
            database = await asyncpg.connect(product.environment["CHATS_CONVERSATIONS_DATABASE_URL"])
            people = [*(f"a{n}" for n in range(ADMINS)), *(f"c{n}" for n in range(STREAMS - ADMINS))]
            await database.execute(_FILL, people)
            await product.start("relay")
            for number in range(ROUNDS):
                print(f"round {number + 1}", flush=True)
                async with ours(product, database) as trial:
                    await trial.run(figures, "ours")
                if not os.environ.get("ALONE"):
                    async with yardstick() as trial:
                        await trial.run(figures, "yardstick")
            await database.close()
    print(f"\nmedian of {ROUNDS}, and all\n")
    for name, values in figures.values.items():
        print(f"{name:<44} {statistics.median(values):9.1f}   {' '.join(f'{value:.1f}' for value in values)}")


def _headers(person: str) -> dict[str, str]:
    return headers_of(person, "admin" if person.startswith("a") else "customer")


def _stream_request(person: str) -> bytes:
    token = _headers(person)["Authorization"]
    return f"GET /api/v1/stream HTTP/1.1\r\nHost: bench\r\nAuthorization: {token}\r\n".encode()


if __name__ == "__main__":
    asyncio.run(main())
