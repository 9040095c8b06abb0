"""Measure from a post to its notification and email: `python -m bench.pipeline`, ROUNDS=5, EVENTS=3000, RATE=200.

The real processes with a PostgreSQL, a broker and a mail server that accepts everything; emails are due at once. First
the latency, one post at a time and at RATE posts per second, and the cost of a message; then the maximum throughput of
one worker and of two. Yardsticks, alternating in the same run: a Celery task that does nothing, on the same broker
with as many pool processes, and a bare aiosmtplib loop that sends the same bytes to the same server.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import redis

from bench.bare import NOTHING, create_bare_celery
from bench.sink import mark
from bench.stage import BODY, CUSTOMERS, OURS, Line, Stage, running_stage, spent, talk
from bench.wal import log_position, written_since
from deploy.local.processes import kill_group
from services.notifications.mail.message import Brand, ContentMessage, EmailContent, compose
from shared.broker.celery_app import EVENTS_QUEUE, create_celery
from shared.broker.publisher import Publisher
from shared.events import Event, EventType
from tests.helpers.waiting import eventually

ROUNDS = int(os.environ.get("ROUNDS", "5"))
EVENTS = int(os.environ.get("EVENTS", "3000"))
RATE = int(os.environ.get("RATE", "200"))
SECONDS = float(os.environ.get("SECONDS", "20"))
TALKS = 20_000
LINES = 32  # connections to the API
IDLE = 100  # posts, one at a time
BATCH = 100  # events published at once, as the relay does with many


Posted = tuple[float, float, str, int]
"""When it was sent and answered, the message's id, and its number."""
Times = tuple[float, float, float]


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_stage(Path(directory), talks=TALKS) as stage:
            await stage.product.start(*OURS)
            await _latencies(stage)
            await stage.product.stop("api", "relay", "sweeper")
            await _throughput(stage)


async def _latencies(stage: Stage) -> None:
    async with Line(stage.product.ports["api"]) as line:
        for number in range(20):  # warm up pools and caches
            await line.reply(talk(number), BODY)
        await eventually(lambda: stage.sink.count() >= 20, deadline=60)
        _print_latencies("one at a time", await _one_by_one(stage, line))
    await stage.conversations.execute("checkpoint")
    before, position = await spent(stage, OURS), await log_position(stage.conversations)
    _print_latencies(f"{RATE} posts/s", await _at_rate(stage))
    cpu, wal = (await spent(stage, OURS)).per(before, int(RATE * SECONDS))
    details = ", ".join(f"{name} {value:.2f}" for name, value in cpu.items())
    ours = sum(cpu[name] for name in OURS)
    print(
        f"a message costs   {ours:.2f} ms of CPU of the product and {sum(cpu.values()) - ours:.2f} of the servers"
        f" ({details}),"
    )
    print(f"                  {wal:.0f} bytes of WAL, changes and whole pages:")
    for table, written in (await written_since((stage.conversations, stage.notifications), position)).items():
        changes, pages = written.changes / (RATE * SECONDS), written.pages / (RATE * SECONDS)
        print(f"                  {table:<14} {changes:6.0f} {pages:6.0f}", flush=True)


async def _one_by_one(stage: Stage, line: Line) -> list[Times]:
    posted = []
    for number in range(1_000, 1_000 + IDLE):
        posted.append(await _post(line, number))
        await _until_all_emailed(stage, posted[-1:])
    return await _times(stage, posted)


async def _at_rate(stage: Stage) -> list[Times]:
    """Post at a steady rate, without waiting for responses, and wait for all emails."""
    async with AsyncExitStack() as stack:
        idle: asyncio.Queue[Line] = asyncio.Queue()
        for _ in range(LINES):
            idle.put_nowait(await stack.enter_async_context(Line(stage.product.ports["api"])))
        posted: list[Posted] = []

        async def post(number: int, due: float) -> None:
            line = await idle.get()
            posted.append(await _post(line, number, due))
            idle.put_nowait(line)

        begun = time.time() + 0.1
        async with asyncio.TaskGroup() as group:
            for number in range(int(RATE * SECONDS)):
                due = begun + number / RATE
                await asyncio.sleep(due - time.time())
                group.create_task(post(2_000 + number, due))
        answered = time.time()
        await _until_all_emailed(stage, posted)
        print(f"{RATE} posts/s          all emails out {time.time() - answered:.1f} s after the last response")
    return await _times(stage, posted)


async def _post(line: Line, number: int, due: float | None = None) -> Posted:
    sent = due or time.time()
    message = await line.reply(talk(number % TALKS), f"{BODY} {mark(number)}")
    return sent, time.time(), message, number


async def _until_all_emailed(stage: Stage, posted: Sequence[Posted]) -> None:
    wanted = {number for *_, number in posted}
    await eventually(
        lambda: wanted <= {number for email in stage.sink.emails() for number in email.marks}, deadline=300
    )


async def _times(stage: Stage, posted: Iterable[Posted]) -> list[Times]:
    """Return for each post the seconds to its response, to its notification's commit and to its email's acceptance."""
    accepted = {number: email.at for email in stage.sink.emails() for number in email.marks}
    rows = await stage.notifications.fetch("select message_id, pg_xact_commit_timestamp(xmin) from notifications")
    recorded = {str(message): moment.timestamp() for message, moment in rows}
    return [
        (answered - sent, recorded[message] - sent, accepted[number] - sent)
        for sent, answered, message, number in posted
    ]


def _print_latencies(when: str, times: Sequence[Times]) -> None:
    for what, seconds in zip(("answered", "notification", "email"), zip(*times, strict=True), strict=True):
        ordered = sorted(seconds)
        p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        print(f"{when:<17} {what:<12} p50 {p50 * 1e3:7.1f} ms   p99 {p99 * 1e3:7.1f} ms", flush=True)


async def _throughput(stage: Stage) -> None:
    """Compare the maximum of one worker with the yardsticks, then that of two."""
    email_file = stage.product.directory / "email"
    email_file.write_bytes(_email())
    async with _bare_celery(stage) as bare:
        for workers in (["worker"], ["worker", "worker-2"]):
            await stage.product.start(*(name for name in workers if not stage.product.runs(name)))
            events, emails, bare_tasks, bare_emails = [], [], [], []
            for _ in range(ROUNDS):
                bare_tasks.append(await _bare_tasks(*bare))
                bare_emails.append(await _bare_emails(stage, email_file))
                handled, sent = await _ours(stage, workers)
                events.append(handled)
                emails.append(sent)
            _print_rates(f"{len(workers)} worker: events", events, "bare Celery task", bare_tasks)
            _print_rates(f"{len(workers)} worker: emails", emails, "bare aiosmtplib loop", bare_emails)


def _print_rates(what: str, ours: list[float], than: str, yardstick: list[float]) -> None:
    ratio = statistics.median(own / bare for own, bare in zip(ours, yardstick, strict=True))
    rates = f"{statistics.median(ours):.0f} a second, {than} {statistics.median(yardstick):.0f}"
    print(f"{what:<20} {rates}, ratio {ratio:.2f}", flush=True)


async def _ours(stage: Stage, workers: Sequence[str]) -> tuple[float, float]:
    """Run workers until a backlog of events is handled, and then send the emails for it."""
    publisher = Publisher(create_celery(stage.product.environment["CHATS_BROKER_URL"], client="bench"))
    await stage.product.chats("emails", "pause")
    for worker in workers:
        stage.product.freeze(worker)
    events = _events(EVENTS)
    for start in range(0, EVENTS, BATCH):
        await asyncio.to_thread(publisher.publish_events, events[start : start + BATCH])
    before = await _handled(stage)
    for worker in workers:
        stage.product.thaw(worker)
    handled = await _rate_of(lambda: _handled(stage), before)
    taken = stage.sink.count()
    await stage.product.chats("emails", "resume")
    return handled, await _rate_of(lambda: _sent(stage), taken)


async def _handled(stage: Stage) -> int:
    return int(await stage.notifications.fetchval("select count(*) from inbox where handled_at is not null"))


async def _sent(stage: Stage) -> int:
    return stage.sink.count()


async def _rate_of(count: Callable[[], Awaitable[int]], before: int) -> float:
    """Watch a count grow by EVENTS; return its growth per second between a tenth and nine tenths."""
    seen: list[tuple[float, int]] = []
    while not seen or seen[-1][1] < EVENTS:
        seen.append((time.perf_counter(), await count() - before))
        await asyncio.sleep(0.02)
    begun, first = next(sample for sample in seen if sample[1] >= EVENTS * 0.1)
    ended, last = next(sample for sample in seen if sample[1] >= EVENTS * 0.9)
    return (last - first) / (ended - begun) if ended > begun else float("nan")


@asynccontextmanager
async def _bare_celery(stage: Stage) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run the yardstick's worker on the same broker, in another of its databases."""
    url = stage.product.environment["CHATS_BROKER_URL"].removesuffix("/0") + "/1"
    with (stage.product.directory / "bare.log").open("ab") as log:
        command = (sys.executable, "-m", "bench.bare", "celery", url)
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield url, process
    finally:
        kill_group(process.pid)
        await process.wait()


async def _bare_tasks(url: str, worker: asyncio.subprocess.Process) -> float:
    celery, client = create_bare_celery(url), redis.Redis.from_url(url)
    worker.send_signal(signal.SIGSTOP)
    with celery.producer_pool.acquire(block=True) as producer, producer.batch():  # type: ignore[attr-defined]
        for event in _events(EVENTS):
            content = event.model_dump(mode="json")
            celery.send_task(NOTHING, args=[content], queue=EVENTS_QUEUE, producer=producer)
    worker.send_signal(signal.SIGCONT)

    async def done() -> int:
        return EVENTS - int(client.llen(f"chats:{EVENTS_QUEUE}"))

    return await _rate_of(done, 0)


async def _bare_emails(stage: Stage, email_file: Path) -> float:
    command = (sys.executable, "-m", "bench.bare", "smtp", str(stage.sink.port), str(EVENTS), str(email_file))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return float(output)


def _events(count: int) -> list[Event]:
    """Return events of admins' messages, each in a conversation of its own."""
    now = datetime.now(UTC)
    sam = {"id": "sam", "version": 1, "name": "Sam", "email": None, "deleted": False}
    events = []
    for number in range(count):
        customer = f"C-{number % CUSTOMERS}"
        anna = {"id": customer, "version": 1, "name": customer, "email": f"{customer}@customer.test", "deleted": False}
        message = {"id": str(uuid4()), "number": 1, "sender_role": "admin", "body": BODY, "created_at": now.isoformat()}
        payload = {"conversation_id": str(uuid4()), "subject": "Where is my parcel?", "message": message}
        payload |= {"sender": sam, "customer": anna}
        events.append(Event(id=uuid4(), type=EventType.MESSAGE_POSTED, occurred_at=now, payload=payload))
    return events


def _email() -> bytes:
    """Compose the email of one such message."""
    brand = Brand("Test Store", "Test Store <support@store.test>", "http://127.0.0.1:8000", None, "UTC", "en")
    message = ContentMessage(1, "Sam", BODY, datetime.now(UTC))
    email = EmailContent(
        message_id="<018f0000-0000-7000-8000-000000000000@store.test>",
        audience="customer",
        conversation_id=UUID(talk(0)),
        subject="Where is my parcel?",
        to_address="c-0@customer.test",
        to_name="Customer 0",
        locale=None,
        time_zone=None,
        created_at=datetime.now(UTC),
        thread=[],
        messages=[message],
    )
    return compose(email, brand)


if __name__ == "__main__":
    asyncio.run(main())
