"""Starts processes of the product by forking them, for a tenth of the CPU of a new interpreter.

Such a process has its own settings, session, log and end. `test_start.py` and `test_any_order.py` also start each
as a new interpreter; with `EVERY_CASE=1`, as in `make verify`, all tests do.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.processes import Child, Running, Spawn, spawn
from tests.system.helpers import fork_server
from tests.system.helpers.processes import Processes, without_settings

PYTHON = [sys.executable, "-m"]


class Forked:
    """A forked process, like one of asyncio's."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._watching = asyncio.create_task(self._watch(reader, writer))

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code, or the negative signal that ended it."""
        return await asyncio.shield(self._watching)

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        self.returncode = int(await reader.readline())
        writer.close()
        return self.returncode


@asynccontextmanager
async def forking(directory: Path) -> AsyncIterator[Spawn]:
    """Run a fork server; yield a function that starts a child, and forks it if it is a Python module."""
    if sys.platform != "linux" or os.environ.get("EVERY_CASE"):
        yield spawn
        return
    socket, log = directory / "socket", directory / "log"

    async def fork(child: Child) -> Running:
        if list(child.command[:2]) != PYTHON:
            return await spawn(child)
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(json.dumps([child.command, str(child.log), dict(child.environment)]).encode() + b"\n")
        return Forked(int(await reader.readline()), reader, writer)

    def server(name: str) -> Child:
        command = [*PYTHON, fork_server.__name__, str(socket)]
        return Child(name=name, command=command, log=log, ready=listens, environment=without_settings())

    async def listens() -> bool:
        return fork_server.READY in log.read_text()

    processes = Processes({}, server)
    try:
        await processes.start("fork-server")
        yield fork
    finally:
        await processes.close()
