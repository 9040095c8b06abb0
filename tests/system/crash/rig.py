"""Runs processes, lets one of them die at a point, restarts it, lets everything finish, and checks the guarantees."""

import asyncio
import multiprocessing
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import redis.asyncio

from deploy.cli import SERVICES
from deploy.local import valkey as valkey_server
from deploy.local.ports import free_ports
from deploy.local.postgres import create_databases, throwaway_postgres
from deploy.local.processes import end, spawn
from services.conversations.emails import follower
from services.conversations.models import AuditEntry
from services.conversations.models import Base as ConversationsBase
from services.notifications.models import Base as NotificationsBase
from shared.broker.celery_app import EVENTS_QUEUE, create_celery
from shared.database.migrations import upgrade
from tests.helpers.smtp_server import ReceivedEmail, Script, SmtpServer, smtp_server
from tests.helpers.waiting import eventually
from tests.system.crash import actors, replies
from tests.system.crash.actors import Answers, Run
from tests.system.crash.points import Point, named_places
from tests.system.crash.promise import Connections, Ends, State, broken, read_state
from tests.system.crash.scenario import ENDS, FAILURES, INVALID_TASK, UNKNOWN_EVENT, mail_script
from tests.system.crash.world import World


@dataclass(frozen=True)
class Stage:
    """A starting point of runs: the actor, and the saved tables and broker.

    `then` are further processes to run before the settling; `script` is the mail server's; `promise` what is
    checked. Two stages that reach the same named places share them in a sample, by `half`.
    """

    actor: str
    before: str
    then: tuple[str, ...] = ()
    half: Literal["even", "odd"] | None = None
    parked: frozenset[UUID] = frozenset({UNKNOWN_EVENT, INVALID_TASK})
    script: Script = field(default_factory=dict)
    promise: Literal["everything", "replies"] = "everything"

    @property
    def ends(self) -> Ends:
        """The allowed final states of emails."""
        return ENDS | (FAILURES if self.script else {})


STAGES = {
    stage.actor: stage
    for stage in (
        Stage("worker: events", "published", half="even"),
        Stage("sweeper: events", "published", half="odd", parked=frozenset({UNKNOWN_EVENT})),
        Stage("worker: mail", "claimed", half="even", script=mail_script()),
        Stage("sweeper: mail", "claimed", half="odd", script=mail_script()),
        Stage("api", "nothing", parked=frozenset()),
        Stage("relay", "written", then=("worker: events",), parked=frozenset({UNKNOWN_EVENT})),
        Stage("jobs: emails", "mailed"),
        Stage("inbound", "mailed", promise="replies"),
    )
}


CHANCES = 10  # runs in which a process may miss a point that it once reached


@dataclass
class Ended:
    """How a process ended: its exit code, None when it was stuck; the points it reached, or its failure."""

    exitcode: int | None = None
    reached: dict[tuple[str, str], int] = field(default_factory=dict)
    failure: str | None = None


@dataclass
class Coverage:
    """The points of a stage at which a process died, and the violations at each."""

    stage: Stage
    points: int
    broken: dict[Point, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        kept = self.points - len(self.broken)
        lines = [f"{self.stage.actor}: crash points covered {kept} of {self.points}"]
        return "\n".join([*lines, *(f"    {point}: {'; '.join(faults)}" for point, faults in self.broken.items())])


@dataclass(frozen=True)
class Saved:
    """A stage's starting point, besides the tables."""

    answers: Answers
    broker: dict[bytes | str, bytes]
    mails: list[ReceivedEmail]


class Rig:
    """Servers for the tests, and the processes that run on them one after the other."""

    def __init__(
        self,
        runs: Connection,
        databases: Connections,
        broker: redis.asyncio.Redis,
        mail_server: SmtpServer,
    ) -> None:
        self._runs = runs
        self.answers: Answers = {}
        self._databases = databases
        self._broker = broker
        self._mail_server = mail_server
        self._saved: dict[str, Saved] = {}
        self._recorded: dict[str, tuple[list[Point], State]] = {}

    async def prepare(self, broker_url: str) -> None:
        """Reach the start of each stage once, and save it."""
        await self._save("nothing")
        await asyncio.to_thread(self._runs.recv)
        await self._restore("nothing", {})
        await self.run("posts")
        await self._log_unknown_event()
        await self._save("posted")
        await self.run("withdrawals")
        await self._save("written")
        await self._restore("posted", {})
        await self.run("relay")
        await self.run("withdrawals")
        await self.run("relay")
        await asyncio.to_thread(_publish_what_nobody_understands, broker_url)
        # Taken by a worker that dies: the task is redelivered and counted.
        await self._die("worker: events", Point("message_posted", "task-begun"))
        await self._save("published")
        for actor in ("more posts", "relay", "worker: events"):
            await self.run(actor)
        # An email of which nothing was sent, and one that the server has received: both leases expire.
        await self._die("worker: mail", Point("send_emails", "claim-committed"))
        await self._die("worker: mail", Point("send_emails", "smtp-dot-sent"))
        await self._broker.flushall()
        await self._save("claimed")
        await self.run("sweeper: mail")
        await self._lose_the_place_in_the_log_of_emails()
        await self._save("mailed")

    async def record(self, stage: Stage) -> tuple[list[Point], State]:
        """Run a stage without a crash; return the points that it reaches, with each visit, and the final state.

        Runs differ slightly, so the points are those of two runs.
        """
        if stage.actor not in self._recorded:
            runs = []
            for _ in range(2):
                await self._restore(stage.before, stage.script)
                runs.append((await self.run(stage.actor)).reached)
            points = [
                Point(work, place, time + 1)
                for (work, place), times in runs[0].items()
                for time in range(min(times, runs[1].get((work, place), 0)))
            ]
            self._recorded[stage.actor] = points, await self._settle(stage)
        return self._recorded[stage.actor]

    async def crash(self, stage: Stage, point: Point, undisturbed: State) -> list[str]:
        """Run a stage, crash at the point, restart, settle; return the violations.

        Runs differ slightly: one that does not reach the point is repeated.
        """
        for chance in range(CHANCES):
            await self._restore(stage.before, stage.script)
            if await self._dies(stage.actor, point):
                break
            if chance == CHANCES - 1:
                raise RuntimeError(f"{stage.actor} did not reach {point}")
        uncertain = await self._databases["notifications"].fetch(
            "select recipient_id from emails where state = 'sending' and data_at is not null"
        )
        await self.run(stage.actor)
        if stage.promise == "replies":
            return await replies.broken(
                self._databases["conversations"], self._databases["notifications"], self.answers
            )
        state = await self._settle(stage)
        recipients = {row["recipient_id"] for row in uncertain}
        return list(broken(state, undisturbed, stage.ends, set(stage.parked), recipients))

    async def cover(self, stage: Stage, *, every_time: bool = False, one_in: int = 1) -> Coverage:
        """Crash at every point of a stage, at the first visit or at every visit.

        With `one_in`, crash at a random sample of one in so many, and at a random sixteenth of the named places, in one
        of its tasks. If another stage reaches the same places, they are shared.
        """
        points, undisturbed = await self.record(stage)
        points = [point for point in points if every_time or point.time == 1]
        names, shuffled = sorted(named_places()), random.sample(points, len(points))
        if one_in > 1:
            names = names[stage.half == "odd" :: 2] if stage.half else names
            names = random.sample(names, len(names) // 16)
        named = {point.place: point for point in shuffled if point.place in names}
        chosen = {*named.values(), *shuffled[::one_in]}
        points = [point for point in points if point in chosen]
        coverage = Coverage(stage, len(points))
        for point in points:
            try:
                faults = await self.crash(stage, point, undisturbed)
            except RuntimeError as error:
                faults = [str(error)]
            if faults:
                coverage.broken[point] = faults
        return coverage

    async def run(self, actor: str, doomed: Point | None = None) -> Ended:
        """Run a process to its end. Raise RuntimeError when it fails or is stuck."""
        ended = await asyncio.to_thread(self._run, Run(actor, doomed, self.answers))
        if ended.failure is not None or (doomed is None and ended.exitcode != 0):
            raise RuntimeError(f"{actor} ended with {ended.exitcode}: {ended.failure}")
        return ended

    async def _die(self, actor: str, point: Point) -> None:
        if not await self._dies(actor, point):
            raise RuntimeError(f"{actor} did not reach {point}")

    async def _dies(self, actor: str, point: Point) -> bool:
        """Return whether a process reached the point and died there."""
        return (await self.run(actor, point)).exitcode == -signal.SIGKILL

    async def _settle(self, stage: Stage) -> State:
        for actor in (*stage.then, *(["settle"] if stage.promise == "everything" else [])):
            await self.run(actor)
        return await read_state(self._databases, self.answers, self._mail_server.emails)

    def _run(self, run: Run) -> Ended:
        self._runs.send(run)
        ended = Ended()
        while True:
            kind, report = self._runs.recv()
            match kind:
                case "answered":
                    self.answers |= report
                case "reached":
                    ended.reached = report
                case "failed":
                    ended.failure = report
                case "ended":
                    ended.exitcode = report
                    return ended

    async def _log_unknown_event(self) -> None:
        await self._databases["conversations"].execute(
            "insert into events (id, type, payload) values ($1, 'message.sung', '{}')", UNKNOWN_EVENT
        )

    async def _lose_the_place_in_the_log_of_emails(self) -> None:
        """Put the reader into the middle of a list, with the whole log before it."""
        epoch = await self._databases["notifications"].fetchval("select epoch from feed")
        emails = await self._databases["notifications"].fetch("select id from emails order by id")
        await self._databases["conversations"].execute(
            "update notifications_cursor set epoch = $1, types = $2, list_after = $3, list_reason = ''",
            epoch,
            list(follower.TYPES),
            emails[len(emails) // 2]["id"],
        )

    async def _save(self, name: str) -> None:
        for service, connection in self._databases.items():
            await connection.execute(f"create schema {name}")
            for table in TABLES[service]:
                await connection.execute(f"create table {name}.{table} as table public.{table}")
        broker = {key: await self._broker.dump(key) or b"" for key in await self._broker.keys()}
        self._saved[name] = Saved(deepcopy(self.answers), broker, list(self._mail_server.emails))

    async def _restore(self, name: str, script: Script) -> None:
        for service, connection in self._databases.items():
            await connection.execute(_refill(TABLES[service], name))
        saved = self._saved[name]
        await self._broker.flushall()
        for key, value in saved.broker.items():
            await self._broker.restore(key, 0, value)
        self.answers = deepcopy(saved.answers)
        self._mail_server.emails[:] = saved.mails
        self._mail_server.script = deepcopy(script)


def _columns(base: type[Any]) -> dict[str, str]:
    """Return the writable columns of each table, in the order of the tables' references."""
    return {
        table.name: ", ".join(column.name for column in table.columns if column.computed is None)
        for table in base.metadata.sorted_tables
    }


def _refill(tables: dict[str, str], name: str) -> str:
    """Return statements that replace the tables' rows by those saved under a name."""
    empty = [
        f"{'truncate' if table == AuditEntry.__tablename__ else 'delete from'} public.{table};"
        for table in reversed(tables)
    ]
    fill = [
        f"insert into public.{table} ({columns}) overriding system value select {columns} from {name}.{table};"  # noqa: S608 - our own tables
        for table, columns in tables.items()
    ]
    return "".join([*empty, *fill])


TABLES = {"conversations": _columns(ConversationsBase), "notifications": _columns(NotificationsBase)}


def _publish_what_nobody_understands(broker_url: str) -> None:
    celery = create_celery(broker_url, client="crash-tests")
    celery.send_task("notifications.message_sung", args=[{}], task_id=str(UNKNOWN_EVENT), queue=EVENTS_QUEUE)
    celery.send_task("notifications.message_posted", args=[{}], task_id=str(INVALID_TASK), queue=EVENTS_QUEUE)
    celery.close()


@asynccontextmanager
async def running_rig(directory: Path) -> AsyncIterator[Rig]:
    """Run databases, broker and mail server, and reach the start of every stage once."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(throwaway_postgres(directory / "postgres"))
        passwords = dict.fromkeys(TABLES, "test")
        await create_databases(server, passwords)
        urls = {name: server.url(name, name, password) for name, password in passwords.items()}
        databases = {}
        for name, url in urls.items():
            await asyncio.to_thread(upgrade, SERVICES / name, url)
            databases[name] = await asyncpg.connect(url)
            stack.push_async_callback(databases[name].close)
        broker_url = await stack.enter_async_context(_running_valkey(directory))
        broker = redis.asyncio.from_url(broker_url)
        stack.push_async_callback(broker.aclose)
        mail_server = await stack.enter_async_context(smtp_server())
        files = directory / "files"
        files.mkdir()
        world = World(urls["conversations"], urls["notifications"], broker_url, mail_server.port, str(files))
        runs = await stack.enter_async_context(_running_forks(world))
        rig = Rig(runs, databases, broker, mail_server)
        await rig.prepare(broker_url)
        yield rig


@asynccontextmanager
async def _running_forks(world: World) -> AsyncIterator[Connection]:
    """Run the process that forks the runs; it first runs all code on empty tables."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=actors.serve, args=(world, theirs))
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        await asyncio.to_thread(process.join)


@asynccontextmanager
async def _running_valkey(directory: Path) -> AsyncIterator[str]:
    [port], password = free_ports([0]), uuid4().hex
    valkey = valkey_server.valkey(directory / "valkey", port, password, directory / "valkey.log")
    process = await spawn(valkey)
    try:
        await eventually(valkey.ready)
        yield valkey_server.url(port, password)
    finally:
        await end(process, signal.SIGKILL, valkey.grace)
