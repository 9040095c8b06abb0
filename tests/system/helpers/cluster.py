"""A PostgreSQL cluster with both services' migrated databases: made once in a process, then copied for each product."""

import asyncio
import atexit
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from deploy.cli import SERVICES
from deploy.local import postgres
from deploy.local.ports import free_ports
from deploy.local.postgres import OWNER, Server
from deploy.local.processes import end, spawn
from shared.database.migrations import upgrade
from tests.helpers.waiting import eventually

DATABASES = ("conversations", "notifications")
PASSWORDS = {f"{name}{suffix}": "test" for name in DATABASES for suffix in ("", OWNER)}

_originals: list[Server] = []


@asynccontextmanager
async def migrated_files(directory: Path) -> AsyncIterator[Server]:
    """Provide the files of a stopped server whose databases are migrated. Delete them at the end."""
    if not _originals:
        _originals.append(await _make())
    [original] = _originals
    async with postgres.throwaway_files(directory, copied=True) as server:
        command = ["cp", "-a", str(original.data), str(server.data)]  # keeps the owner
        await asyncio.to_thread(subprocess.run, command, check=True)
        yield replace(server, password=original.password)


async def _make() -> Server:
    parent = Path(tempfile.mkdtemp(prefix="chats-cluster-"))
    directory = parent / "postgres"
    atexit.register(_remove, directory)
    server = await asyncio.to_thread(
        postgres.prepare, directory, free_ports([0])[0], secrets.token_hex(16), lambda _: None
    )
    child = postgres.postgres(server, server.home / "server.log", postgres.THROWAWAY)
    process = await spawn(child)
    await eventually(child.ready, deadline=60)
    await postgres.create_databases(server, PASSWORDS)
    for name in DATABASES:
        urls = (server.url(name, role, "test") for role in (name, f"{name}{OWNER}"))
        await asyncio.to_thread(upgrade, SERVICES / name, *urls)
    await end(process, child.stop_signal, child.grace)
    return server


def _remove(directory: Path) -> None:
    postgres.remove(directory)
    shutil.rmtree(directory.parent)
