"""Measure how late the notifications are, and how long after each fault they have caught up."""

import asyncio
import time
from array import array
from dataclasses import dataclass, field

import asyncpg

from bench.chaos.history import History

POLL = 0.1  # seconds between polls


@dataclass
class Struck:
    """A fault that struck."""

    kind: str
    target: str
    began: float
    ended: float | None = None
    caught_up: float | None = None
    """Seconds from its end until everything acknowledged before its end had its notification."""


@dataclass
class Watch:
    """Polls the notifications by SQL, without a proxy."""

    history: History
    url: str
    struck: list[Struck] = field(default_factory=list)
    record_seconds: dict[bool, "array[float]"] = field(default_factory=lambda: {True: array("d"), False: array("d")})
    """From an admin's 201 to the notification, by whether it was calm."""

    async def run(self) -> None:
        """Poll until cancelled; retry while the database is down."""
        while True:
            try:
                connection = await asyncpg.connect(self.url, timeout=5, command_timeout=10)
                try:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(POLL)
                finally:
                    connection.terminate()
            except Exception:  # noqa: BLE001 - a driver that loses its connection may raise anything; connect again
                await asyncio.sleep(POLL)

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
