"""A Valkey for one test, which may be killed, frozen and started again."""

from pathlib import Path

from deploy.local import valkey as server
from deploy.local.ports import free_ports
from tests.system.helpers.processes import Processes

NAME = "valkey"
PASSWORD = "test"


class Valkey:
    """A Valkey with a fixed address. When killed, it loses nothing that it has written."""

    def __init__(self, directory: Path) -> None:
        [port] = free_ports([0])
        child = server.valkey(directory / "valkey", port, PASSWORD, directory / "valkey.log")
        self.url = server.url(port, PASSWORD)
        self._processes = Processes({NAME: lambda: child}, lambda _: child)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self._processes.start(NAME)

    async def kill(self) -> None:
        """Kill it."""
        await self._processes.kill(NAME)

    def freeze(self) -> None:
        """Make it keep its connections but answer nothing."""
        self._processes.freeze(NAME)

    def thaw(self) -> None:
        """Resume it."""
        self._processes.thaw(NAME)

    async def close(self) -> None:
        """Kill it if it still runs."""
        await self._processes.close()
