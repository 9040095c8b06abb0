"""How processes start: clear errors for missing settings, and patience with servers that are not running yet."""

import json
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.ports import free_ports
from deploy.local.processes import Child, Running, Spawn, end, spawn
from tests.helpers.amqp_peer import amqp_peer
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import at_once, without_settings
from tests.system.helpers.product import CHATS

SECRET = "a secret for tests with 32 bytes or more"
DATABASE = "postgresql://nobody@127.0.0.1:1/none"
API = {"CHATS_CONVERSATIONS_DATABASE_URL": DATABASE, "CHATS_NOTIFICATIONS_DATABASE_URL": DATABASE}


async def run_chats(spawn: Spawn, directory: Path, *arguments: str, **settings: str) -> tuple[Running, Path]:
    """Start a command; return it and the file of its output."""
    environment = without_settings() | {"CHATS_DATA_DIR": str(directory), **settings}
    output = directory / f"{uuid4()}.output"
    command = [*CHATS, *arguments]
    child = Child(name="chats", command=command, log=output, ready=at_once, environment=environment)
    return await spawn(child), output


async def fails(spawn: Spawn, directory: Path, *arguments: str, **settings: str) -> list[str]:
    """Run a command that must fail; return the lines that it printed."""
    started, output = await run_chats(spawn, directory, *arguments, **settings)
    assert await started.wait() == 1
    return output.read_text().splitlines()


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
    fork: Spawn, tmp_path: Path, process: str, settings: Mapping[str, str], words: str
) -> None:
    (tmp_path / "chats.env").write_text(f"CHATS_AUTH_SECRET={SECRET}\n")  # only for processes of `make run`
    [line] = await fails(fork, tmp_path, process, **{**API, **settings})
    assert words in line
    assert "hunter2" not in line


async def test_without_a_secret_no_token_can_be_signed(fork: Spawn, tmp_path: Path) -> None:
    url = {"CHATS_AUTH_JWKS_URL": "http://127.0.0.1:1/keys"}
    [line] = await fails(fork, tmp_path, "token", "--sub", "anna", "--role", "customer", **url)
    assert line.startswith("chats: cannot sign a token: set CHATS_AUTH_SECRET")


async def test_a_missing_file_is_named_in_one_line(tmp_path: Path) -> None:
    printed = await fails(spawn, tmp_path, "import", "none.ndjson", **API)
    assert printed == ["chats: cannot read none.ndjson: No such file or directory"]


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
    fork: Spawn, tmp_path: Path, process: str, settings: Mapping[str, str]
) -> None:
    printed = await fails(fork, tmp_path, process, **{**API, **settings})
    assert len(printed) == 1, printed


@pytest.mark.parametrize(
    "process", ["api", "notifications-api", "relay", "jobs", "thumbnails", "sweeper", "worker", "inbound"]
)
async def test_processes_wait_for_an_unreachable_database_until_they_are_stopped(tmp_path: Path, process: str) -> None:
    [port] = free_ports([0])
    secrets = {"CHATS_AUTH_SECRET": SECRET, "CHATS_FEED_SECRET": SECRET}
    started, output = await run_chats(spawn, tmp_path, process, "--port", str(port), **API, **secrets)
    try:
        await eventually(lambda: "waiting for the database" in output.read_text(), deadline=60)
        assert started.returncode is None
    finally:
        await end(started, signal.SIGTERM, 60)
    assert started.returncode in {0, -signal.SIGTERM}
    for line in output.read_text().splitlines():
        assert json.loads(line)["process"] == process


async def test_a_used_port_is_reported_in_one_line(fork: Spawn, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for process in ("worker", "flower"):
            [line] = await fails(fork, tmp_path, process, "--port", port, **API)
            assert f"cannot listen on 127.0.0.1, port {port}" in line


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("login", "the broker refuses the user or the password"),
        ("vhost", "the broker refuses the virtual host"),
        ("queue", "a queue exists with other arguments"),
    ],
)
async def test_a_worker_that_the_broker_rejects_reports_it_in_one_line_and_exits(
    fork: Spawn, tmp_path: Path, refuses: str, words: str
) -> None:
    async with amqp_peer(refuses) as peer:
        url = f"amqp://user:hunter2@127.0.0.1:{peer.port}/shop"
        port = str(free_ports([0])[0])
        [line] = await fails(fork, tmp_path, "worker", "--port", port, CHATS_BROKER_URL=url, **API)
    assert f"chats: {words}" in line
    assert "hunter2" not in line
