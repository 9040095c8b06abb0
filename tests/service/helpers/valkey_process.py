"""A Valkey of a test's own, which may be killed, frozen and started again."""

from pathlib import Path

from deploy.local import valkey as server
from deploy.local.ports import free_ports
from tests.system.helpers.processes import Processes

NAME = "valkey"
PASSWORD = "test"


class Valkey:
    """One Valkey at one address. Killed, it forgets nothing that it has written."""

    def __init__(self, directory: Path) -> None:
        [port] = free_ports([0])
        child = server.valkey(directory / "valkey", port, PASSWORD, directory / "valkey.log")
        self.url = server.url(port, PASSWORD)
        self._processes = Processes({NAME: lambda: child}, lambda _: child)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self._processes.start(NAME)

    async def kill(self) -> None:
        """Kill it, whatever it is doing."""
        await self._processes.kill(NAME)

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        self._processes.freeze(NAME)

    def thaw(self) -> None:
        """Let it go on."""
        self._processes.thaw(NAME)

    async def close(self) -> None:
        """Kill it if it still runs."""
        await self._processes.close()
