"""A sender's connections to the mail server: one logs in first, and fewer are used when the server refuses more."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext

from services.notifications.mail.attempts import OPENING, Attempt
from services.notifications.mail.smtp import SmtpConnection

REDUCED_FOR = 60.0  # seconds until the configured number of connections is tried again


class ServerCapacity:
    """How many connections the server accepts, as this process last observed; kept from one pool to the next."""

    def __init__(self) -> None:
        self._max = 0
        self._until = -math.inf

    def reduce(self, connections: int) -> None:
        """Record that the server serves this many connections and refused another one."""
        self._max = max(connections, self._max if self._until > time.monotonic() else 0)
        self._until = time.monotonic() + REDUCED_FOR

    def limit(self, wanted: int) -> int:
        """Return how many connections to use, at least one."""
        return max(1, min(wanted, self._max) if self._until > time.monotonic() else wanted)


class ConnectionPool:
    """Connections that are opened when needed and kept until the pool is closed."""

    def __init__(self, connections: Sequence[SmtpConnection], capacity: ServerCapacity) -> None:
        self.connections = connections
        self._capacity = capacity
        self._first = asyncio.Lock()
        self._failed = False

    def select(self, count: int) -> Sequence[SmtpConnection]:
        """Return at most `count` connections for a batch, open ones first."""
        self._failed = False
        open_first = sorted(self.connections, key=lambda connection: not connection.is_open)
        return open_first[: self._capacity.limit(count)]

    async def open(self, connection: SmtpConnection) -> Attempt | None:
        """Open a connection; return the failure, or None if it is open or was skipped after another one's failure.

        While none is open, one connects and the others wait; if it fails they are skipped. So a wrong password causes
        one failed login.
        """
        if connection.is_open:
            return None
        async with nullcontext() if self.is_open else self._first:
            if self.failed:
                return None
            failure = await connection.open()
            self._failed = self._failed or failure is not None
            return failure

    def continue_without(self, connection: SmtpConnection, attempt: Attempt) -> bool:
        """Continue without a connection that could not be opened; return False if no other one is open."""
        others = sum(other.is_open for other in self.connections if other is not connection)
        if attempt.phase not in OPENING or not others:
            return False
        self._capacity.reduce(others)
        return True

    def abort(self) -> None:
        """Abort all dialogues in progress."""
        for connection in self.connections:
            connection.abort()

    async def close(self) -> None:
        """Quit and close all connections; never fails."""
        await asyncio.gather(*(connection.close() for connection in self.connections))

    @property
    def failed(self) -> bool:
        """Whether a connection could not be opened in this batch, and no other one is open."""
        return self._failed and not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether any connection is open."""
        return any(connection.is_open for connection in self.connections)
