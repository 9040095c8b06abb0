"""The embedded PostgreSQL, Valkey and mail catcher as real processes."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from starlette.testclient import TestClient

from deploy.listen_check import listen_error
from deploy.local import postgres as pg
from deploy.local.environment import LISTENERS, SECRETS, embedded_parts, settings
from deploy.local.mailbox import Mailbox, make_app
from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, spawn
from deploy.local.valkey import LIMITS, valkey
from deploy.local.valkey import url as valkey_url
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.sliding_window import SlidingWindows, Window
from tests.helpers.waiting import eventually

PASSWORD = "a" * 64


@contextlib.asynccontextmanager
async def alive(child: Child) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await spawn(child)
    try:
        await eventually(child.ready, 30)
        yield process
    finally:
        await end(process, child.stop_signal, child.grace)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pg.Server]:
    yield pg.prepare(tmp_path / "postgres", free_ports([0])[0], PASSWORD, lambda _: None)
    pg.remove(tmp_path / "postgres")


async def test_postgres_keeps_committed_data_over_a_kill_9(server: pg.Server, tmp_path: Path) -> None:
    child = pg.postgres(server, tmp_path / "log")
    async with alive(child) as process:
        await pg.create_databases(server, {"conversations": PASSWORD})
        connection = await asyncpg.connect(server.url("conversations", "conversations", PASSWORD))
        await connection.execute("create table kept as select 42 as answer")
        process.send_signal(signal.SIGKILL)
        await process.wait()
        connection.terminate()

    again = pg.prepare(tmp_path / "postgres", server.port, PASSWORD, lambda _: None)
    assert again == server
    async with alive(pg.postgres(again, tmp_path / "log")):
        connection = await asyncpg.connect(server.url("conversations", "conversations", PASSWORD))
        assert await connection.fetchval("select answer from kept") == 42
        await connection.close()


async def test_a_stale_pid_file_of_another_program_is_ignored(server: pg.Server, tmp_path: Path) -> None:
    (server.data / "postmaster.pid").write_text(f"1\n{server.data}\n0\n{server.port}\n\n127.0.0.1\n")
    pg.prepare(tmp_path / "postgres", server.port, PASSWORD, lambda _: None)
    async with alive(pg.postgres(server, tmp_path / "log")):
        pass


async def test_each_role_can_only_connect_to_its_own_database(tmp_path: Path) -> None:
    async with pg.throwaway_postgres(tmp_path / "postgres") as server:
        for _ in range(2):  # as at every start
            await pg.create_databases(server, {"conversations": "a", "notifications": "b"})
        connection = await asyncpg.connect(server.url("conversations", "conversations", "a"))
        await connection.execute("create table own ()")
        await connection.close()
        for other in ("notifications", "postgres", "template1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(server.url(other, "conversations", "a"))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url("notifications", "notifications", "a"))


async def test_a_throwaway_postgres_leaves_nothing(tmp_path: Path) -> None:
    before = [mode(path) for path in (tmp_path, *tmp_path.parents)]
    async with pg.throwaway_postgres(tmp_path / "postgres") as server:
        assert mode(server.home) == 0o700
    assert not os.listdir(tmp_path)  # noqa: PTH208 - and no link to its directory
    assert not server.home.exists()
    assert [mode(path) for path in (tmp_path, *tmp_path.parents)] == before


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_valkey_keeps_its_data_over_a_kill_9_and_requires_its_password(tmp_path: Path) -> None:
    [port] = free_ports([0])
    child = valkey(tmp_path / "valkey", port, PASSWORD, tmp_path / "log")
    async with alive(child) as process, redis.asyncio.from_url(valkey_url(port, PASSWORD)) as client:
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        assert int((await client.config_get("maxmemory"))["maxmemory"] or 0) == 256 * 2**20
        await client.set("kept", "yes")
        await client.waitaof(1, 0, 5000)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with alive(child), redis.asyncio.from_url(valkey_url(port, PASSWORD)) as client:
        assert await client.get("kept") == b"yes"
        async with redis.asyncio.from_url(f"redis://127.0.0.1:{port}") as stranger:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await stranger.get("kept")


async def test_the_valkey_for_limits_keeps_counting_when_its_memory_is_full(tmp_path: Path) -> None:
    [port] = free_ports([0])
    small = {**LIMITS, "memory": "4mb"}
    async with alive(valkey(tmp_path / "limits", port, PASSWORD, tmp_path / "log", name="limits", use=small)):
        counting = FailopenRedis(valkey_url(port, PASSWORD), timeout=5)
        async with counting.client as client:
            for number in range(300):
                await client.set(f"window {number}", "x" * 20_000, px=60_000)
            assert (await client.info("stats"))["evicted_keys"] > 0
            window = [Window("chats:test", 1, 60_000)]
            taken = [await SlidingWindows(counting).consume(window, what) for what in ("one", "another")]
        assert [full is None for full in taken] == [True, False]


def test_limits_are_not_counted_by_the_broker_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CHATS_BROKER_URL", "CHATS_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    ports, kept = dict(zip(LISTENERS, range(9000, 9100), strict=False)), dict.fromkeys(SECRETS, "secret")
    chosen = settings(tmp_path, "127.0.0.1", ports, kept)
    assert chosen["CHATS_BROKER_URL"] != chosen["CHATS_REDIS_URL"]
    assert {"valkey", "limits"} <= embedded_parts()
    monkeypatch.setenv("CHATS_BROKER_URL", "redis://elsewhere.example/0")
    assert "limits" in embedded_parts()
    assert "valkey" not in embedded_parts()


def test_a_used_port_is_reported_and_another_is_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert listen_error("127.0.0.1", port) == "the port is in use"
        assert port not in free_ports([port, port, 0])
    assert listen_error("127.0.0.1", port) is None
    assert free_ports([port]) == [port]
    assert len(set(free_ports([0] * 20))) == 20


def test_the_mailbox_shows_an_email_and_runs_no_script_in_it(tmp_path: Path) -> None:
    email = EmailMessage()
    email["Subject"], email["From"], email["To"] = "Größe <b>?", "store@demo.example", "anna@demo.example"
    email.set_content("Passt.")
    email.add_alternative(
        "<p>Passt.<script>alert(1)</script><img src='http://elsewhere.example/pixel'>", subtype="html"
    )
    Mailbox(tmp_path).keep(bytes(email))
    with TestClient(make_app(Mailbox(tmp_path))) as client:
        assert "Größe &lt;b&gt;?" in client.get("/").text
        assert client.get("/mails").json()[0]["to"] == "anna@demo.example"
        assert client.get("/mails/latest/text").text.strip() == "Passt."
        assert client.get("/mails/1/source").content == bytes(email)
        assert "default-src 'none'" in client.get("/mails/1/html").headers["content-security-policy"]
        assert client.get("/mails/2").status_code == 404
        assert client.get("/mails/../secrets/text").status_code == 404
