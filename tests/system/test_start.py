"""How processes start: clear errors for missing settings, and patience with servers that are not running yet."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from tests.helpers.amqp_peer import amqp_peer

SECRET = "a secret for tests with 32 bytes or more"
DATABASE = "postgresql://nobody@127.0.0.1:1/none"
API = {"CHATS_CONVERSATIONS_DATABASE_URL": DATABASE, "CHATS_NOTIFICATIONS_DATABASE_URL": DATABASE}


async def run_chats(directory: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "deploy.cli", *arguments),
        env={**kept, "CHATS_DATA_DIR": str(directory), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@pytest.mark.parametrize("process", ["api", "notifications-api"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "CHATS_AUTH_SECRET"),
        ({"CHATS_AUTH_SECRET": "hunter2"}, "32 bytes"),
        (
            {
                "CHATS_AUTH_SECRET": SECRET,
                "CHATS_NOTIFICATIONS_DATABASE_URL": "mysql://u:hunter2@h/d",
                "CHATS_CONVERSATIONS_DATABASE_URL": "mysql://u:hunter2@h/d",
            },
            "URL scheme",
        ),
    ],
)
async def test_a_process_that_cannot_start_reports_the_reason_in_one_line(
    tmp_path: Path, process: str, settings: Mapping[str, str], words: str
) -> None:
    (tmp_path / "chats.env").write_text(f"CHATS_AUTH_SECRET={SECRET}\n")  # only for processes of `make run`
    started = await run_chats(tmp_path, process, **{**API, **settings})
    output, _ = await started.communicate()
    [line] = output.decode().splitlines()
    assert started.returncode == 1
    assert words in line
    assert "hunter2" not in line


async def test_without_a_secret_no_token_can_be_signed(tmp_path: Path) -> None:
    url = {"CHATS_AUTH_JWKS_URL": "http://127.0.0.1:1/keys"}
    started = await run_chats(tmp_path, "token", "--sub", "anna", "--role", "customer", **url)
    output, _ = await started.communicate()
    assert started.returncode == 1
    assert output.decode().startswith("chats: cannot sign a token: set CHATS_AUTH_SECRET")


async def test_a_missing_file_is_named_in_one_line(tmp_path: Path) -> None:
    started = await run_chats(tmp_path, "import", "none.ndjson", **API)
    output, _ = await started.communicate()
    assert started.returncode == 1
    assert output == b"chats: cannot read none.ndjson: No such file or directory\n"


@pytest.mark.parametrize(
    ("process", "settings"),
    [
        ("worker", {"CHATS_BROKER_URL": "kafka://127.0.0.1"}),
        ("sweeper", {"CHATS_SMTP_URL": "http://127.0.0.1", "CHATS_FEED_SECRET": SECRET}),
        ("sweeper", {"CHATS_FEED_SECRET": ""}),
        ("relay", {"CHATS_CONVERSATIONS_DATABASE_URL": ""}),
    ],
)
async def test_an_unusable_url_is_reported_in_one_line(
    tmp_path: Path, process: str, settings: Mapping[str, str]
) -> None:
    started = await run_chats(tmp_path, process, **{**API, **settings})
    output, _ = await started.communicate()
    assert started.returncode == 1
    assert len(output.decode().splitlines()) == 1, output.decode()


@pytest.mark.parametrize("process", ["api", "notifications-api", "relay", "sweeper", "worker"])
async def test_processes_wait_for_an_unreachable_database_until_they_are_stopped(tmp_path: Path, process: str) -> None:
    [port] = free_ports([0])
    started = await run_chats(
        tmp_path, process, "--port", str(port), **API, CHATS_AUTH_SECRET=SECRET, CHATS_FEED_SECRET=SECRET
    )
    assert started.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(60):
        while not lines or "waiting for the database" not in lines[-1]:
            lines.append((await started.stdout.readline()).decode())
            assert lines[-1], f"it exited after printing {lines}"
    assert started.returncode is None
    started.terminate()
    await asyncio.wait_for(started.communicate(), 60)
    assert started.returncode in {0, -signal.SIGTERM}


async def test_a_used_port_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for process in ("worker", "flower"):
            started = await run_chats(tmp_path, process, "--port", port, **API)
            output, _ = await started.communicate()
            assert started.returncode == 1
            assert f"cannot listen on 127.0.0.1, port {port}" in output.decode()
            assert len(output.decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("login", "the broker refuses the user or the password"),
        ("vhost", "the broker refuses the virtual host"),
        ("queue", "a queue exists with other arguments"),
    ],
)
async def test_a_worker_that_the_broker_rejects_reports_it_in_one_line_and_exits(
    tmp_path: Path, refuses: str, words: str
) -> None:
    async with amqp_peer(refuses) as peer:
        url = f"amqp://user:hunter2@127.0.0.1:{peer.port}/shop"
        started = await run_chats(tmp_path, "worker", CHATS_BROKER_URL=url, **API)
        output, _ = await started.communicate()
    assert started.returncode == 1
    [line] = output.decode().splitlines()
    assert f"chats: {words}" in line
    assert "hunter2" not in line
