"""How far the records are behind what was acknowledged, and how long after each fault they had caught up."""

import asyncio
import time
from array import array
from dataclasses import dataclass, field

import asyncpg

from bench.chaos.history import History

LOOK = 0.1  # seconds between looks


@dataclass
class Struck:
    """A fault that was struck: what, against whom, when."""

    kind: str
    target: str
    began: float
    ended: float | None = None
    caught_up: float | None = None
    """Seconds from its end until everything that was acknowledged by then had its record."""


@dataclass
class Watch:
    """Looks at the records by SQL, past every proxy."""

    history: History
    url: str
    struck: list[Struck] = field(default_factory=list)
    record_seconds: dict[bool, "array[float]"] = field(default_factory=lambda: {True: array("d"), False: array("d")})
    """From an admin's 201 to the record, by whether it was calm."""

    async def run(self) -> None:
        """Look until cancelled; a database that is away is asked again."""
        while True:
            try:
                connection = await asyncpg.connect(self.url, timeout=5, command_timeout=10)
                try:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(LOOK)
                finally:
                    connection.terminate()
            except Exception:  # noqa: BLE001 - a driver that is cut off anywhere raises anything; ask again
                await asyncio.sleep(LOOK)

    async def _look(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        pending = self.history.pending
        if pending:
            query = "select message_id::text from notifications where message_id = any($1::uuid[])"
            for row in await connection.fetch(query, list(pending)):
                acknowledged, _ = pending.pop(row[0], (None, None))
                if acknowledged is not None:
                    self.record_seconds[self.history.calm].append(time.monotonic() - acknowledged)
        now = time.monotonic()
        oldest = next(iter(pending.values()))[0] if pending else now
        for fault in self.struck:
            if fault.caught_up is None and fault.ended is not None and oldest > fault.ended:
                fault.caught_up = now - fault.ended
