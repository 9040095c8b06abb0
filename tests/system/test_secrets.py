"""No secret appears in any log, response, page or process list, not even after a failure."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx2
import psutil
import pytest

from deploy.local import postgres
from deploy.local.ports import free_ports
from deploy.local.processes import Child, Running, Spawn, end, spawn
from deploy.local.readiness import accepts
from deploy.local.valkey import url as valkey_url
from deploy.local.valkey import valkey
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import at_once, without_settings
from tests.system.helpers.product import CHATS

PROCESSES = ("api", "notifications-api", "relay", "jobs", "thumbnails", "worker", "sweeper", "inbound", "flower")
MARK = "hush"
NAMES = ("conversations", "notifications", "valkey", "auth", "feed", "flower", "smtp")
SECRETS = {name: f"{MARK}-{name}-with-thirty-two-bytes-or-more" for name in NAMES}
WRONG = {name: f"{MARK}-wrong-{name}-with-thirty-two-bytes-or-more" for name in NAMES}


@dataclass(frozen=True)
class Servers:
    """The ports of a PostgreSQL and a Valkey with passwords, and a directory for logs."""

    directory: Path
    postgres: int
    valkey: int

    def environment(self, secrets: dict[str, str], host: str = "127.0.0.1") -> dict[str, str]:
        """Return the settings of every process, with these secrets wherever one is possible."""
        urls = {
            f"CHATS_{name.upper()}_{kind}_URL": f"postgresql://{name}:{secrets[name]}@{host}:{self.postgres}/{name}"
            for name in ("conversations", "notifications")
            for kind in ("DATABASE", "OWNER")
        }
        return without_settings() | {
            **urls,
            "CHATS_BROKER_URL": valkey_url(self.valkey, secrets["valkey"]),
            "CHATS_AUTH_SECRET": secrets["auth"],
            "CHATS_FEED_SECRET": secrets["feed"],
            "CHATS_FLOWER_BASIC_AUTH": f"admin:{secrets['flower']}",
            "CHATS_SMTP_URL": f"smtp://user:{secrets['smtp']}@127.0.0.1:1",
            "CHATS_DATA_DIR": str(self.directory),
            "CHATS_LOG_LEVEL": "debug",
        }


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """A PostgreSQL and a Valkey with their own passwords."""
    directory, [port] = tmp_path_factory.mktemp("secrets"), free_ports([0])
    async with postgres.throwaway_postgres(directory / "postgres") as server:
        await postgres.create_databases(server, {name: SECRETS[name] for name in ("conversations", "notifications")})
        child = valkey(directory / "valkey", port, SECRETS["valkey"], directory / "valkey.log")
        process = await spawn(child)
        await eventually(child.ready, 30)
        yield Servers(directory, server.port, port)
        await end(process, child.stop_signal, child.grace)


AT_ONCE = asyncio.Semaphore(3)  # concurrent commands; they mostly wait


async def chats(
    environment: dict[str, str], *arguments: str, within: float = 60, start: Spawn = spawn
) -> tuple[int, str]:
    """Run a command to its end or for `within` seconds; return its exit code and output."""
    output = Path(environment["CHATS_DATA_DIR"]) / f"{uuid4()}.output"
    command = [*CHATS, *arguments]
    async with AT_ONCE:
        process = await start(Child(name="chats", command=command, log=output, ready=at_once, environment=environment))
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), within)
        await end(process, signal.SIGTERM, 60)
    return process.returncode or 0, output.read_text()


@asynccontextmanager
async def running(
    names: Iterable[str], environment: dict[str, str], directory: Path, spawn: Spawn
) -> AsyncIterator[list[tuple[int, Path]]]:
    """Run processes concurrently meanwhile; yield the port and the log of each once they listen."""
    started: list[tuple[Child, Running]] = []

    async def start(name: str) -> tuple[int, Path]:
        [port] = free_ports([0])
        log = directory / f"{name}-{port}.log"
        command = [*CHATS, name, "--port", str(port)]
        child = Child(name=name, command=command, log=log, ready=accepts("127.0.0.1", port), environment=environment)
        process = await spawn(child)
        started.append((child, process))
        await eventually(child.ready, 60)
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert MARK not in str([member.cmdline() for member in tree])
        return port, log

    try:
        yield await asyncio.gather(*(start(name) for name in names))
    finally:
        await asyncio.gather(*(end(process, child.stop_signal, child.grace) for child, process in started))


def assert_silent(text: str) -> None:
    at = text.find(MARK)
    assert at < 0, text[max(0, at - 300) : at + 100]


@pytest.mark.timeout(300)
@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_processes_that_cannot_log_in_report_it_without_the_password(servers: Servers, fork: Spawn) -> None:
    environment = servers.environment(WRONG)
    names = [name for name in PROCESSES if name != "worker"]  # the worker exits
    async with (
        running(names, environment, servers.directory, fork) as found,
        httpx2.AsyncClient(timeout=30) as client,
    ):
        for name, (port, _) in zip(names, found, strict=True):
            for path in ("/readyz", "/metrics", "/openapi.json", "/"):
                assert_silent((await client.get(f"http://127.0.0.1:{port}{path}")).text)
            if name != "flower":
                assert "password authentication failed" in (await client.get(f"http://127.0.0.1:{port}/readyz")).text
    for _, log in found:
        assert_silent(log.read_text())


@pytest.mark.timeout(300)
async def test_no_command_prints_a_secret_when_it_fails(servers: Servers, fork: Spawn) -> None:
    wrong, unreachable = servers.environment(WRONG), servers.environment(SECRETS, host="nowhere.invalid")

    async def fails(environment: dict[str, str], *command: str) -> None:
        code, output = await chats(environment, *command, start=fork)
        assert code == 1
        assert_silent(output)
        assert "Traceback" not in output
        assert output.count("\n") == (2 if command == ("status",) else 1)  # `status` has a line for each database

    async def ends(environment: dict[str, str], process: str, reason: str) -> None:
        code, output = await chats(environment, process, "--port", str(free_ports([0])[0]), start=fork)
        assert code == 1
        assert_silent(output)
        assert "Traceback" not in output
        assert reason in output.splitlines()[-1]

    async def waits(environment: dict[str, str]) -> None:
        _, output = await chats(environment, "migrate", within=5, start=fork)  # it waits for its server
        assert_silent(output)

    commands = (("status",), ("demo",), ("emails", "list"), ("restored", "conversations"))
    await asyncio.gather(
        *(waits(environment) for environment in (wrong, unreachable)),
        *(fails(wrong, *command) for command in commands),
        *(fails(unreachable, *command) for command in commands),
        fails(servers.environment(SECRETS), "token", "--sub", "x", "--role", "king"),
        ends(wrong, "worker", "password"),
    )


BROKEN = {
    "api": ("CONVERSATIONS_DATABASE_URL", "REDIS_URL"),
    "relay": ("CONVERSATIONS_DATABASE_URL", "BROKER_URL", "REDIS_URL"),
    "jobs": ("CONVERSATIONS_DATABASE_URL",),
    "thumbnails": ("CONVERSATIONS_DATABASE_URL",),
    "worker": ("NOTIFICATIONS_DATABASE_URL", "BROKER_URL", "SMTP_URL"),
    "sweeper": ("NOTIFICATIONS_DATABASE_URL", "SMTP_URL"),
    "inbound": ("NOTIFICATIONS_DATABASE_URL", "INBOUND_LISTEN"),
    "notifications-api": ("NOTIFICATIONS_DATABASE_URL",),
    "flower": ("BROKER_URL",),
    "migrate": ("CONVERSATIONS_OWNER_URL",),
    "status": ("CONVERSATIONS_DATABASE_URL",),
}


@pytest.mark.timeout(300)
async def test_invalid_urls_are_named_but_not_shown(servers: Servers, fork: Spawn) -> None:
    async def names_all(command: str, settings: Sequence[str]) -> None:
        url = f"http://user:{SECRETS['smtp']}/@host:port"
        environment = servers.environment(SECRETS) | {f"CHATS_{name}": url for name in settings}
        code, output = await chats(environment, command, start=fork)
        assert code == 1
        assert_silent(output)
        start = "database " if command == "status" else "chats: "  # `status` has a line for each database
        for name in settings:
            assert re.search(rf"^{start}.*CHATS_{name}: ", output), output
        assert output.count("\n") == (2 if command == "status" else 1)

    async def is_short(command: str) -> None:
        short = {"CHATS_AUTH_SECRET": f"{MARK}-short", "CHATS_FLOWER_BASIC_AUTH": MARK}
        code, output = await chats(servers.environment(SECRETS) | short, command, start=fork)
        assert (code, output.count("\n")) == (1, 1)
        assert_silent(output)

    await asyncio.gather(
        *(names_all(command, settings) for command, settings in BROKEN.items()), *map(is_short, ("api", "flower"))
    )


async def reports(environment: dict[str, str], fork: Spawn) -> bool:
    """Return whether relay and worker have reported their state with the broker."""
    code, status = await chats(environment, "status", start=fork)
    assert_silent(status)
    return code == 0


@pytest.mark.timeout(300)
async def test_flower_requires_a_password_and_shows_no_other(servers: Servers, fork: Spawn) -> None:
    environment = servers.environment(SECRETS)
    assert (await chats(environment, "migrate"))[0] == 0
    async with (
        running(("worker", "flower", "relay"), environment, servers.directory, spawn) as found,
        httpx2.AsyncClient(timeout=30) as client,
    ):
        (worker, worker_log), (flower, flower_log), _ = found
        origin, auth = f"http://127.0.0.1:{flower}", ("admin", SECRETS["flower"])
        for path in ("/", "/workers", "/broker", "/tasks", "/api/workers", "/api/tasks"):
            assert (await client.get(f"{origin}{path}")).status_code == 401
            assert (await client.get(f"{origin}{path}", auth=("admin", "wrong"))).status_code == 401

        async def workers() -> list[str]:
            return list((await client.get(f"{origin}/api/workers", params={"refresh": "1"}, auth=auth)).json())

        [name] = await eventually(workers, 60)
        pages = ("/", "/workers", "/broker", "/tasks", f"/worker/{name}", "/api/workers", "/api/queues/length")
        for path in pages:
            page = await client.get(f"{origin}{path}", auth=auth)
            assert page.status_code == 200, path
            assert_silent(page.text)
        assert_silent((await client.get(f"http://127.0.0.1:{worker}/metrics")).text)
        await eventually(lambda: reports(environment, fork), 60)
    for log in (worker_log, flower_log):
        assert_silent(log.read_text())
