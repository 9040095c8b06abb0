"""`make run` as a whole, with stand-ins for the product's own processes."""

import contextlib
import os
import re
import signal
import smtplib
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
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

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def port() -> int:
    return free_ports([0])[0]


@pytest.fixture
def start(data: Path, port: int) -> Iterator[Start]:
    runs: list[subprocess.Popen[str]] = []

    def start(terminal: int | None = None, **settings: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHATS_", "MAKE"))}
        environment = {**kept, "CHATS_DATA_DIR": str(data), "CHATS_PORT": str(port), **settings}
        output = (data.parent / "output").open("a")
        with output:
            stdout = terminal or output
            run = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", RUN], env=environment, stdout=stdout, stderr=output, text=True
            )
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.terminate()
        run.wait(60)
    if (data / "postgres").exists():
        pg.remove(data / "postgres")


@pytest.fixture
def output(data: Path) -> Callable[[], str]:
    return (data.parent / "output").read_text


@contextlib.asynccontextmanager
async def up(run: subprocess.Popen[str], output: Callable[[], str]) -> AsyncIterator[dict[str, str]]:
    await eventually(lambda: "Customer Chats is running." in output() or run.poll() is not None, 60)
    assert run.poll() is None, output()
    yield dict(re.findall(r"^  ([\w-]+) +(http://\S+)$", output(), re.MULTILINE))


def descendants(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


async def test_everything_is_served_at_one_origin_and_one_signal_stops_it(
    start: Start, output: Callable[[], str], data: Path, port: int
) -> None:
    run = start()
    async with up(run, output) as urls, httpx2.AsyncClient(base_url=urls["Origin"], timeout=30) as client:
        assert urls["Origin"] == f"http://127.0.0.1:{port}"
        for path in ("/api/v1/conversations", "/healthz", "/docs", "/session", "/dashboard/messages/new/", "/"):
            assert (await client.get(path)).text.startswith("api answers")
        for path in ("/api/v1/notifications", "/api/v1/notifications/docs"):
            assert (await client.get(path)).text.startswith("notifications-api answers")
        for path in ("/metrics", "/internal/events", "/api/v2", "/sessions"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
        assert stat_of(data / "secrets.env") == stat_of(data / "chats.env") == "-rw-------"

        processes = descendants(run)
        names = {child.name() for child in processes}
        assert {"caddy", "postgres", "valkey-server"} <= names
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    assert not [process for process in processes if is_alive(process)]


def stat_of(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


async def test_the_proxy_waits_for_a_crashed_upstream_until_it_is_restarted(
    start: Start, output: Callable[[], str]
) -> None:
    run = start()
    async with up(run, output) as urls, httpx2.AsyncClient(base_url=urls["Origin"], timeout=30) as client:
        api = next(p for p in descendants(run) if "api" in p.cmdline())
        api.kill()
        await eventually(lambda: "api was ended by SIGKILL; restarting" in output())
        await eventually(lambda: answers(client))


async def answers(client: httpx2.AsyncClient) -> bool:
    """Return whether the API answers again; until then the proxy retries for a second, then responds with an error."""
    return (await client.get("/api/v1/conversations")).status_code == 200


async def test_live_events_pass_without_buffering(start: Start, output: Callable[[], str]) -> None:
    async with (
        up(start(), output) as urls,
        httpx2.AsyncClient(base_url=urls["Origin"], timeout=30) as client,
        client.stream("GET", "/api/v1/stream", timeout=30) as answer,
    ):
        assert await anext(answer.aiter_lines()) == "api answers /api/v1/stream"


async def test_emails_are_caught_and_shown(start: Start, output: Callable[[], str], data: Path) -> None:
    async with up(start(), output) as urls, httpx2.AsyncClient(base_url=urls["Mailbox"], timeout=30) as client:
        smtp = re.search(r"CHATS_SMTP_URL=smtp://127.0.0.1:(\d+)", (data / "chats.env").read_text())
        assert smtp
        with smtplib.SMTP("127.0.0.1", int(smtp[1])) as connection:
            connection.sendmail("a@demo.example", ["b@demo.example"], "Subject: Hello\r\n\r\nThere\r\n")
        assert (await client.get("/mails/latest/text")).text.strip() == "There"


async def test_after_a_kill_9_it_starts_again_with_the_same_secrets(
    start: Start, output: Callable[[], str], data: Path
) -> None:
    first = start()
    async with up(first, output):
        secrets = (data / "secrets.env").read_text()
        left = descendants(first)
        first.kill()
        first.wait()
    (data.parent / "output").write_text("")
    async with up(start(), output):
        assert (data / "secrets.env").read_text() == secrets
        assert not [process for process in left if is_alive(process)]


async def test_a_second_run_with_the_same_data_is_rejected(
    start: Start, output: Callable[[], str], data: Path, port: int
) -> None:
    first = start()
    async with up(first, output):
        assert start(CHATS_PORT=str(port + 20)).wait(30) == 1
        assert f"it is already running on {data} (process {first.pid})." in output()
        assert first.poll() is None


async def test_a_used_port_is_reported_before_anything_starts(
    start: Start, output: Callable[[], str], data: Path, port: int
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        assert start().wait(30) == 1
    reason = f"it cannot listen on 127.0.0.1, port {port}: the port is in use."
    advice = "Change CHATS_HOST or CHATS_PORT."
    assert output() == f"Customer Chats did not start: {reason} {advice}\n"
    assert not (data / "postgres").exists()


async def test_a_configured_server_replaces_the_embedded_one(
    start: Start, output: Callable[[], str], data: Path
) -> None:
    given = {
        "CHATS_CONVERSATIONS_DATABASE_URL": "postgresql://c@elsewhere.example/c",
        "CHATS_NOTIFICATIONS_DATABASE_URL": "postgresql://n@elsewhere.example/n",
        "CHATS_BROKER_URL": "amqp://elsewhere.example",
        "CHATS_REDIS_URL": "redis://elsewhere.example/1",
        "CHATS_SMTP_URL": "smtp://elsewhere.example",
    }
    run = start(**given)
    async with up(run, output) as urls:
        assert "Mailbox" not in urls
        assert not {"postgres", "valkey-server"} & {child.name() for child in descendants(run)}
    written = (data / "chats.env").read_text()
    for name, value in given.items():
        assert f"{name}={value}\n" in written


async def test_caddy_trusts_a_configured_proxy_and_the_services_trust_caddy(
    start: Start, output: Callable[[], str], data: Path
) -> None:
    roles = {"CHATS_AUTH_ROLE_CLAIM": "realm_access.roles"}
    run = start(CHATS_SMTP_URL="smtp://elsewhere.example", CHATS_TRUSTED_PROXIES="203.0.113.10,::1", **roles)
    async with up(run, output) as urls:
        assert "Shop" not in urls  # the services would not accept its tokens
        caddy = next(child for child in descendants(run) if child.name() == "caddy")
        assert caddy.environ()["CHATS_TRUSTED_PROXIES"] == "203.0.113.10 ::1"
    assert "CHATS_TRUSTED_PROXIES=127.0.0.1,::1,203.0.113.10,::1\n" in (data / "chats.env").read_text()


async def test_the_shop_is_the_entry_and_its_origin_is_configured(
    start: Start, output: Callable[[], str], data: Path
) -> None:
    given = {"CHATS_STORE_ORIGINS": "https://store.example", "CHATS_STORE_URL": "https://store.example/"}
    async with up(start(**given), output) as urls, httpx2.AsyncClient(base_url=urls["Shop"], timeout=30) as client:
        assert next(iter(urls)) == "Shop"
        assert "Sign in" in (await client.get("/")).text
        shop = urls["Shop"].rstrip("/")
    written = (data / "chats.env").read_text().splitlines()
    assert f"CHATS_LOGIN_URL={shop}/login" in written
    assert f"CHATS_STORE_ORIGINS={shop},https://store.example" in written
    assert "CHATS_STORE_URL=https://store.example/" in written


async def test_without_the_demo_there_is_no_shop(start: Start, output: Callable[[], str], data: Path) -> None:
    async with up(start(CHATS_DEMO="0"), output) as urls:
        assert "Shop" not in urls
    assert "CHATS_LOGIN_URL" not in (data / "chats.env").read_text()
    assert not (data / "shop").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the SIGHUP of a shell reports it")
async def test_closing_the_terminal_stops_everything(start: Start, data: Path) -> None:
    master, terminal = os.openpty()
    run = start(terminal)
    os.close(terminal)
    with open(master, "rb", buffering=0) as screen:  # noqa: ASYNC230, PTH123 - a number, not a path
        shown = b""
        while b"Customer Chats is running." not in shown:
            shown += screen.read(4096)
        processes = descendants(run)
    assert run.wait(30) == 0
    assert not [process for process in processes if is_alive(process)]
    assert not (data / "processes.json").exists()
