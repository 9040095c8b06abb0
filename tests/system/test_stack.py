"""`make run` as a whole, with stand-ins for the product's own processes."""

import os
import re
import signal
import smtplib
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from deploy.local import postgres as pg
from deploy.local.ports import free_ports
from deploy.local.processes import is_alive
from tests.helpers.waiting import eventually

STANDIN = Path(__file__).parent / "helpers" / "standin.py"
# SIGHUP must end it, also when the tests themselves run under nohup.
RUN = f"""
import signal
import sys
from deploy.local import stack

signal.signal(signal.SIGHUP, signal.SIG_DFL)

stack.COMMAND = (sys.executable, {str(STANDIN)!r})
sys.exit(stack.run())
"""

# A run with these servers starts no others.
ELSEWHERE = {
    "CHATS_CONVERSATIONS_DATABASE_URL": "postgresql://c@elsewhere.example/c",
    "CHATS_NOTIFICATIONS_DATABASE_URL": "postgresql://n@elsewhere.example/n",
    "CHATS_BROKER_URL": "amqp://elsewhere.example",
    "CHATS_REDIS_URL": "redis://elsewhere.example/1",
    "CHATS_SMTP_URL": "smtp://elsewhere.example",
}
Run = subprocess.Popen[str]


class Machine:
    """A data directory and a port for `make run`."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.port = free_ports([0])[0]
        self.printed = directory / "output"
        self._runs: list[Run] = []

    def start(self, terminal: int | None = None, /, **settings: str) -> Run:
        """Start everything without waiting for it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHATS_", "MAKE"))}
        environment = {**kept, "CHATS_DATA_DIR": str(self.data), "CHATS_PORT": str(self.port), **settings}
        with self.printed.open("a") as output:
            stdout = terminal or output
            run = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", RUN], env=environment, stdout=stdout, stderr=output, text=True
            )
        self._runs.append(run)
        return run

    def output(self) -> str:
        """Return what was printed."""
        return self.printed.read_text()

    async def until_up(self, run: Run) -> dict[str, str]:
        """Wait until everything runs; return the printed URLs by name."""
        await eventually(lambda: "Customer Chats is running." in self.output() or run.poll() is not None, 60)
        assert run.poll() is None, self.output()
        return dict(re.findall(r"^  ([\w-]+) +(http://\S+)$", self.output(), re.MULTILINE))

    def close(self) -> None:
        """Stop everything and delete the database."""
        for run in self._runs:
            run.terminate()
            run.wait(60)
        if (self.data / "postgres").exists():
            pg.remove(self.data / "postgres")


@dataclass(frozen=True)
class Up:
    """A machine on which everything runs, with its URLs."""

    machine: Machine
    run: Run
    urls: dict[str, str]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    """Everything, with an own store. Tests leave it running."""
    machine = Machine(tmp_path_factory.mktemp("stack"))
    own_store = {"CHATS_STORE_ORIGINS": "https://store.example", "CHATS_STORE_URL": "https://store.example/"}
    run = machine.start(**own_store)
    yield Up(machine, run, await machine.until_up(run))
    machine.close()


def descendants(run: Run) -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


def browse(up: Up, name: str = "Origin") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=up.urls[name], timeout=30)


async def test_everything_is_served_at_one_origin(up: Up) -> None:
    assert up.urls["Origin"] == f"http://127.0.0.1:{up.machine.port}"
    async with browse(up) as client:
        for path in ("/api/v1/conversations", "/healthz", "/docs", "/session", "/dashboard/messages/new/", "/"):
            assert (await client.get(path)).text.startswith("api answers")
        for path in ("/api/v1/notifications", "/api/v1/notifications/docs"):
            assert (await client.get(path)).text.startswith("notifications-api answers")
        for path in ("/metrics", "/internal/events", "/api/v2", "/sessions"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert stat_of(up.machine.data / "secrets.env") == stat_of(up.machine.data / "chats.env") == "-rw-------"


def stat_of(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


async def test_the_proxy_waits_for_a_crashed_upstream_until_it_is_restarted(up: Up) -> None:
    next(p for p in descendants(up.run) if "api" in p.cmdline()).kill()
    await eventually(lambda: "api was ended by SIGKILL; restarting" in up.machine.output())
    async with browse(up) as client:
        await eventually(lambda: answers(client))


async def answers(client: httpx2.AsyncClient) -> bool:
    """Return whether the API answers again; until then the proxy retries for a second, then responds with an error."""
    return (await client.get("/api/v1/conversations")).status_code == 200


async def test_live_events_pass_without_buffering(up: Up) -> None:
    async with browse(up) as client, client.stream("GET", "/api/v1/stream", timeout=30) as answer:
        assert await anext(answer.aiter_lines()) == "api answers /api/v1/stream"


async def test_emails_are_caught_and_shown(up: Up) -> None:
    smtp = re.search(r"CHATS_SMTP_URL=smtp://127.0.0.1:(\d+)", (up.machine.data / "chats.env").read_text())
    assert smtp
    with smtplib.SMTP("127.0.0.1", int(smtp[1])) as connection:
        connection.sendmail("a@demo.example", ["b@demo.example"], "Subject: Hello\r\n\r\nThere\r\n")
    async with browse(up, "Mailbox") as client:
        assert (await client.get("/mails/latest/text")).text.strip() == "There"


async def test_the_shop_is_the_entry_and_its_origin_is_configured(up: Up) -> None:
    assert next(iter(up.urls)) == "Shop"
    async with browse(up, "Shop") as client:
        assert "Sign in" in (await client.get("/")).text
    shop = up.urls["Shop"].rstrip("/")
    written = (up.machine.data / "chats.env").read_text().splitlines()
    assert f"CHATS_LOGIN_URL={shop}/login" in written
    assert f"CHATS_STORE_ORIGINS={shop},https://store.example" in written
    assert "CHATS_STORE_URL=https://store.example/" in written


async def test_a_second_run_with_the_same_data_is_rejected(up: Up) -> None:
    assert up.machine.start(CHATS_PORT=str(up.machine.port + 20)).wait(30) == 1
    assert f"it is already running on {up.machine.data} (process {up.run.pid})." in up.machine.output()
    assert up.run.poll() is None


async def test_after_a_kill_9_it_starts_again_with_the_same_secrets_and_one_signal_stops_it(machine: Machine) -> None:
    first = machine.start()
    await machine.until_up(first)
    secrets = (machine.data / "secrets.env").read_text()
    left = descendants(first)
    first.kill()
    first.wait()

    machine.printed.write_text("")
    second = machine.start()
    await machine.until_up(second)
    assert (machine.data / "secrets.env").read_text() == secrets
    assert not [process for process in left if is_alive(process)]

    processes = descendants(second)
    assert {"caddy", "postgres", "valkey-server"} <= {process.name() for process in processes}
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert not [process for process in processes if is_alive(process)]


async def test_a_used_port_is_reported_before_anything_starts(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", machine.port)):
        assert machine.start().wait(30) == 1
    reason = f"it cannot listen on 127.0.0.1, port {machine.port}: the port is in use."
    advice = "Change CHATS_HOST or CHATS_PORT."
    assert machine.output() == f"Customer Chats did not start: {reason} {advice}\n"
    assert not (machine.data / "postgres").exists()


async def test_configured_servers_replace_the_embedded_ones_and_without_the_demo_there_is_no_shop(
    machine: Machine,
) -> None:
    run = machine.start(**ELSEWHERE, CHATS_DEMO="0")
    urls = await machine.until_up(run)
    assert not {"Mailbox", "Shop"} & urls.keys()
    assert "Example request" not in machine.output(), "there are no demo people"
    assert not {"postgres", "valkey-server"} & {child.name() for child in descendants(run)}
    written = (machine.data / "chats.env").read_text()
    for name, value in ELSEWHERE.items():
        assert f"{name}={value}\n" in written
    assert "CHATS_LOGIN_URL" not in written
    assert not (machine.data / "shop").exists()


async def test_caddy_trusts_a_configured_proxy_and_the_services_trust_caddy(machine: Machine) -> None:
    roles = {"CHATS_AUTH_ROLE_CLAIM": "realm_access.roles"}
    run = machine.start(**ELSEWHERE, CHATS_TRUSTED_PROXIES="203.0.113.10,::1", **roles)
    assert "Shop" not in await machine.until_up(run)  # the services would not accept its tokens
    caddy = next(child for child in descendants(run) if child.name() == "caddy")
    assert caddy.environ()["CHATS_TRUSTED_PROXIES"] == "203.0.113.10 ::1"
    assert "CHATS_TRUSTED_PROXIES=127.0.0.1,::1,203.0.113.10,::1\n" in (machine.data / "chats.env").read_text()


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the SIGHUP of a shell reports it")
async def test_closing_the_terminal_stops_everything(machine: Machine) -> None:
    master, terminal = os.openpty()
    run = machine.start(terminal)
    os.close(terminal)
    with open(master, "rb", buffering=0) as screen:  # noqa: ASYNC230, PTH123 - a number, not a path
        shown = b""
        while b"Customer Chats is running." not in shown:
            shown += screen.read(4096)
        processes = descendants(run)
    assert run.wait(30) == 0
    assert not [process for process in processes if is_alive(process)]
    assert not (machine.data / "processes.json").exists()
