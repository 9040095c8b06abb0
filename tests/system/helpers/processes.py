"""Real processes that a test can start, stop, kill, freeze, and start again."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping

import psutil

from deploy.local.processes import Child, Running, Spawn, end, how_it_ended, last_lines, spawn
from tests.helpers.waiting import eventually

LAST = ("broker", "postgres")
"""The servers that the other processes need; they are killed last, in this order."""
IMMEDIATE = signal.SIGQUIT
"""The signal that makes PostgreSQL drop everything at once, as in a crash; for `kill`."""


class Processes:
    """Processes by name.

    `servers` are third-party programs; `describe` returns how to start a process of the product, `spawn` starts it.
    """

    def __init__(
        self, servers: Mapping[str, Callable[[], Child]], describe: Callable[[str], Child], spawn: Spawn = spawn
    ) -> None:
        self._servers = dict(servers)
        self._describe = describe
        self.spawn = spawn
        self._running: dict[str, tuple[Child, Running]] = {}

    def add(self, name: str, server: Callable[[], Child]) -> None:
        """Register a server that a test needs."""
        self._servers[name] = server

    async def start(self, *names: str) -> None:
        """Start processes and wait until each is ready."""
        await self.launch(*names)
        await self.until_ready(*names)

    async def launch(self, *names: str) -> None:
        """Start processes without waiting for readiness."""
        for name in names:
            server = self._servers.get(name)
            child = await asyncio.to_thread(server) if server else self._describe(name)
            self._running[name] = (child, await self.spawn(child))

    async def until_ready(self, *names: str) -> None:
        """Wait until all of these are ready."""
        for name in names:
            child, process = self._running[name]

            async def ready(child: Child = child, process: Running = process) -> bool:
                if process.returncode is not None:
                    raise RuntimeError(f"{child.name} ended:{last_lines(child.log)}")
                return await child.ready()

            await eventually(ready, deadline=60)

    async def stop(self, *names: str) -> None:
        """Stop processes as an operator would; fail if one had to be killed or hit its own deadline."""
        for name in names:
            child, process = self._running.pop(name)
            await end(process, child.stop_signal, child.grace)
            assert process.returncode in {0, -signal.SIGTERM}, f"{name} {how_it_ended(process.returncode or 0)}"

    async def kill(self, *names: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill processes with SIGKILL by default, including their children."""
        for name in names:
            family = self.family(name)
            child, process = self._running.pop(name)
            await end(process, how, child.grace)
            await _until_ended(family)

    def freeze(self, name: str) -> None:
        """Stop a process until it is thawed."""
        self._running[name][1].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Resume a frozen process."""
        self._running[name][1].send_signal(signal.SIGCONT)

    def runs(self, name: str) -> bool:
        """Return whether a process was started and not stopped or killed since."""
        return name in self._running

    def family(self, name: str) -> list[psutil.Process]:
        """Return a process, followed by its descendants."""
        try:
            leader = psutil.Process(self._running[name][1].pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def ended(self) -> list[str]:
        """Return the names of the processes that ended by themselves."""
        return [name for name, (_, process) in self._running.items() if process.returncode is not None]

    def log_of(self, name: str) -> str:
        """Return the last lines that a process wrote."""
        return last_lines(self._running[name][0].log)

    async def close(self) -> None:
        """Kill all processes that still run."""
        for name in [*(name for name in self._running if name not in LAST), *LAST]:
            if name in self._running:
                await self.kill(name, how=IMMEDIATE if name == "postgres" else signal.SIGKILL)


async def _until_ended(family: list[psutil.Process]) -> None:
    """Wait for processes that were killed: until then they may hold a port."""
    await eventually(lambda: all(map(_has_ended, family)))


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, also one that waits for its parent to ask how."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def at_once() -> bool:
    """Do not wait for a process that has no readiness check."""
    return True


def without_settings() -> dict[str, str]:
    """Return this process's environment without the product's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATS_")}
