"""All faults of the chaos run: each strikes, lasts for a while, and is then undone."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import asyncpg
import psutil
import redis.asyncio
from redis.exceptions import RedisError

from bench.chaos.mailroom import Mailroom
from bench.chaos.proxy import Disturbance, Link, Trouble
from tests.helpers.smtp_server import DROP, KEEP_AND_DROP, KEEP_AND_STALL, STALL
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import IMMEDIATE, Processes

LEASES = {"worker": 60.0, "sweeper": 60.0, "jobs": 20.0}
"""The seconds that processes hold what they send without renewing their lease."""


@dataclass(frozen=True)
class World:
    """The processes and connections that faults can strike."""

    processes: Processes
    own: Sequence[str]  # the product's own processes, without third-party servers
    links: Sequence[Link]
    mail_server: Mailroom
    broker_url: str
    superuser_url: str
    roles: Sequence[str]  # database roles


@dataclass(frozen=True)
class Fault:
    """A fault. `strike` returns when it is over. Lanes run in parallel, and each strikes one fault at a time.

    Nobody else starts the process that a fault `holds`, by default its target. A child that is killed during a start
    would make that start fail.
    """

    lane: str
    kind: str
    target: str
    strike: Callable[[random.Random], Awaitable[None]]
    weight: float = 1.0
    part_of: str | None = None

    @property
    def holds(self) -> str:
        """The process that the fault holds."""
        return self.part_of or self.target


def all_faults(world: World, *, long: bool) -> list[Fault]:
    """Return every fault; with `long` also those that last longer than a lease."""
    return [
        *_of_processes(world, long=long),
        *_of_servers(world),
        *_of_the_network(world),
        *_of_mail(world.mail_server),
    ]


def _of_processes(world: World, *, long: bool) -> list[Fault]:
    faults = []
    for number, name in enumerate(world.own):
        lane = f"processes {number % 2 + 1}"
        faults += [
            Fault(lane, "kill -9", name, partial(_kill, world, name)),
            Fault(lane, "SIGSTOP and SIGCONT", name, partial(_freeze, world, name, 4.0)),
        ]
        if name == "worker":
            faults += [
                Fault(lane, kind, target, strike, part_of=name)
                for kind, target, strike in (
                    ("kill -9", "a pool process of the worker", partial(_kill_child, world, name)),
                    ("kill -9", "the clock of the worker", partial(_kill_clock, world, name)),
                    ("SIGSTOP and SIGCONT", "a child of the worker", partial(_freeze_child, world, name, 6.0)),
                )
            ]
        if long and (lease := LEASES.get(name.removesuffix("-2"))):
            frozen = partial(_freeze, world, name, lease, at_least=lease)
            faults.append(Fault(lane, "SIGSTOP beyond the lease", name, frozen, 0.1))
    return faults


def _of_servers(world: World) -> list[Fault]:
    return [
        Fault("servers", "FLUSHALL", "broker", partial(_empty_broker, world), 2),
        Fault("servers", "kill -9 and absence", "broker", partial(_kill, world, "broker", absence=6.0)),
        Fault("servers", "SIGSTOP and SIGCONT", "broker", partial(_freeze, world, "broker", 4.0)),
        Fault("servers", "immediate restart", "postgres", partial(_kill, world, "postgres", how=IMMEDIATE)),
        Fault("servers", "kill -9", "postgres", partial(_kill, world, "postgres", absence=3.0), 0.5),
        Fault("servers", "SIGSTOP and SIGCONT", "postgres", partial(_freeze, world, "postgres", 4.0), 0.5),
        *(Fault("servers", "pg_terminate_backend", role, partial(_terminate, world, role)) for role in world.roles),
    ]


def _of_the_network(world: World) -> list[Fault]:
    return [
        Fault("network", f"network: {trouble}", link.name, partial(_disturb, link, trouble))
        for link in world.links
        for trouble in Trouble
    ]


def _of_mail(mail_server: Mailroom) -> list[Fault]:
    def answers(kind: str, weight: float, *scripts: dict[str, list[str]]) -> Fault:
        return Fault("mail", f"SMTP: {kind}", "mail server", partial(_script, mail_server, scripts), weight)

    return [
        answers(
            "4xx", 2, {"rcpt": ["450 4.2.0 later"] * 3}, {"data": ["451 4.3.0 later"] * 3}, {"end": ["452 4.3.1 full"]}
        ),
        answers(
            "5xx to the mail", 1, {"rcpt": ["550 5.1.1 nobody"]}, {"data": ["554 5.6.0 no"]}, {"end": ["552 5.3.4 no"]}
        ),
        answers("5xx to the set-up", 0.3, {"mail": ["550 5.7.1 not you"]}, {"banner": ["554 5.3.2 no service"]}),
        answers("shutting down", 1, {"mail": ["421 4.3.2 bye"] * 2}, {"data": ["421 4.3.2 bye"] * 2}),
        answers("hung up before the dot", 1, {"rcpt": [DROP] * 2}, {"content": [DROP] * 2}),
        answers("lost reply", 2, {"end": [KEEP_AND_DROP] * 2}, {"end": [DROP] * 2}),
        answers("stall", 2, {"rcpt": [STALL] * 2}, {"end": [STALL]}, {"end": [KEEP_AND_STALL]}),
        Fault("mail", "SMTP: slow banner", "mail server", partial(_slow_banner, mail_server)),
    ]


async def _kill(
    world: World, name: str, rng: random.Random, *, absence: float = 1.0, how: signal.Signals = signal.SIGKILL
) -> None:
    await world.processes.kill(name, how=how)
    await asyncio.sleep(rng.random() * absence)
    await world.processes.start(name)


async def _freeze(world: World, name: str, longest: float, rng: random.Random, *, at_least: float = 0.0) -> None:
    # PostgreSQL's backends keep serving open connections: only its listener is frozen.
    family = world.processes.family(name)
    await _suspend(family[:1] if name == "postgres" else family, at_least + rng.random() * longest)


async def _kill_child(world: World, name: str, rng: random.Random) -> None:
    if children := [child for child in world.processes.family(name)[1:] if not _is_clock(child)]:
        with suppress(psutil.NoSuchProcess):
            rng.choice(children).kill()
    await asyncio.sleep(rng.random() * 2)


async def _kill_clock(world: World, name: str, _: random.Random) -> None:
    """Kill the worker's clock, with which it ends; start the worker again, as a supervisor does."""
    for clock in filter(_is_clock, world.processes.family(name)[1:]):
        with suppress(psutil.NoSuchProcess):
            clock.kill()
        await eventually(lambda: name in world.processes.ended(), deadline=60)
        await world.processes.start(name)


def _is_clock(child: psutil.Process) -> bool:
    """Return whether a worker's child serves its health and metrics, as only its clock does."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(connection.status == psutil.CONN_LISTEN for connection in child.net_connections("tcp"))
    return False


async def _freeze_child(world: World, name: str, longest: float, rng: random.Random) -> None:
    children = world.processes.family(name)[1:]
    await _suspend([rng.choice(children)] if children else [], rng.random() * longest)


async def _suspend(family: Sequence[psutil.Process], seconds: float) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        await asyncio.sleep(seconds)
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def _empty_broker(world: World, _: random.Random) -> None:
    with suppress(RedisError, OSError):  # it may be down
        async with redis.asyncio.from_url(world.broker_url, socket_timeout=2, socket_connect_timeout=2) as broker:
            await broker.flushall()


async def _terminate(world: World, role: str, _: random.Random) -> None:
    with suppress(OSError, asyncpg.PostgresError):
        connection = await asyncpg.connect(world.superuser_url, timeout=5)
        await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", role)
        await connection.close()


async def _disturb(link: Link, trouble: Trouble, rng: random.Random) -> None:
    link.strike(Disturbance(trouble, delay=rng.choice((0.05, 0.3, 1.0)), share=rng.choice((0.5, 1.0))))
    await asyncio.sleep(0.3 + rng.random() * 4)
    # A sender that waits for the reply after the dot would wait for ten minutes, as it should: longer than most runs.
    if trouble is Trouble.BLACK_HOLE and rng.random() < 0.3 and "mail server" not in link.name:
        link.forget()
    else:
        link.heal(cut=rng.random() < 0.5)


async def _script(mail_server: Mailroom, scripts: Sequence[dict[str, list[str]]], rng: random.Random) -> None:
    for phase, answers in rng.choice(scripts).items():
        mail_server.script[phase] = list(answers)
    await asyncio.sleep(1 + rng.random() * 5)
    mail_server.script.clear()
    await mail_server.hang_up()  # ends stalled connections


async def _slow_banner(mail_server: Mailroom, rng: random.Random) -> None:
    mail_server.delays["banner"] = 1 + rng.random() * 4
    await asyncio.sleep(2 + rng.random() * 4)
    mail_server.delays.clear()
