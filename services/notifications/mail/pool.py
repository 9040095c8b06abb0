"""The connections of one sender to the mail server: opened one first, and fewer when the server wants fewer."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext

from services.notifications.mail.attempts import OPENING, Attempt
from services.notifications.mail.smtp import SmtpConnection

FEWER_FOR = 60.0  # seconds until as many connections as are set are tried again


class ServerRoom:
    """How many connections the server has room for, as a process saw it last; kept from one pool to the next."""

    def __init__(self) -> None:
        self._most = 0
        self._until = -math.inf

    def found(self, connections: int) -> None:
        """Note that the server serves so many, and refuses another one."""
        self._most = max(connections, self._most if self._until > time.monotonic() else 0)
        self._until = time.monotonic() + FEWER_FOR

    def most(self, wanted: int) -> int:
        """Return how many connections to use, at least one."""
        return max(1, min(wanted, self._most) if self._until > time.monotonic() else wanted)


class ConnectionPool:
    """Connections that are opened when they are needed and kept to the end."""

    def __init__(self, connections: Sequence[SmtpConnection], room: ServerRoom) -> None:
        self.connections = connections
        self._room = room
        self._first = asyncio.Lock()
        self._failed = False

    def begin(self, count: int) -> Sequence[SmtpConnection]:
        """Choose at most so many connections for a batch, those first that are open."""
        self._failed = False
        return sorted(self.connections, key=lambda one: not one.is_open)[: self._room.most(count)]

    async def open(self, connection: SmtpConnection) -> Attempt | None:
        """Open a connection; return why it failed, None if it did not, or was not opened because others failed.

        Until one is open the others wait for it, and when it fails they are not opened: one wrong password is one
        failed login.
        """
        if connection.is_open:
            return None
        async with nullcontext() if self.is_open else self._first:
            if self.failed:
                return None
            failure = await connection.open()
            self._failed = self._failed or failure is not None
            return failure

    def spare(self, connection: SmtpConnection, attempt: Attempt) -> bool:
        """Go on without a connection that could not be opened; False when no other one is open."""
        others = sum(one.is_open for one in self.connections if one is not connection)
        if attempt.phase not in OPENING or not others:
            return False
        self._room.found(others)
        return True

    def break_off(self) -> None:
        """End all dialogues that are under way."""
        for connection in self.connections:
            connection.break_off()

    async def close(self) -> None:
        """Say goodbye and close all; never fails."""
        await asyncio.gather(*(connection.close() for connection in self.connections))

    @property
    def failed(self) -> bool:
        """Whether a connection could not be opened in this batch, and no other one is open."""
        return self._failed and not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether any of them is open."""
        return any(connection.is_open for connection in self.connections)
