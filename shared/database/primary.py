"""Connect to the host of a database that currently accepts writes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from shared.database.errors import DATABASE_ERRORS, is_read_only

Connect = Callable[..., Awaitable["asyncpg.Connection[Any]"]]

# Query the server itself: the status it reported at the connection's start may be cached by a pooler, and being in
# recovery is only one reason for being read-only.
REFUSES_WRITES = "current_setting('transaction_read_only')::boolean"
REST = 0.2  # seconds
_REFUSED = "the server accepts no writes"


def primary_connector() -> Connect:
    """Return a function that connects as `asyncpg.connect` does, to the first host that accepts writes.

    It starts with the last such host, and divides the timeout between the hosts. If none accepts writes, it fails
    without asking again for `REST` seconds, because each attempt costs the servers a process.
    """
    last, rests_until = 0, 0.0

    async def connect(
        *, host: str | Sequence[str] = "", port: int | Sequence[int] = 5432, **options: Any
    ) -> "asyncpg.Connection[Any]":
        nonlocal last, rests_until
        if time.monotonic() < rests_until:
            raise asyncpg.ReadOnlySQLTransactionError(_REFUSED)
        addresses, errors = _addresses(host, port), []
        options["timeout"] /= len(addresses)
        for step in range(len(addresses)):
            index = (last + step) % len(addresses)
            try:
                connection = await _connect(*addresses[index], options)
            except DATABASE_ERRORS as error:
                errors.append(error)
            else:
                last = index
                return connection
        # The error of a standby that is not promoted yet says more than that of a dead primary.
        reason = next(filter(is_read_only, errors), errors[0])
        if is_read_only(reason):
            rests_until = time.monotonic() + REST
        raise reason

    return connect


def _addresses(host: str | Sequence[str], port: int | Sequence[int]) -> list[tuple[str, int]]:
    hosts = [host] if isinstance(host, str) else host
    ports = [port] * len(hosts) if isinstance(port, int) else port
    return list(zip(hosts, ports, strict=True))


async def _connect(host: str, port: int, options: dict[str, Any]) -> "asyncpg.Connection[Any]":
    async with asyncio.timeout(options["timeout"]):
        connection: asyncpg.Connection[Any] = await asyncpg.connect(host=host or None, port=port, **options)
        try:
            refuses = await connection.fetchval(f"select {REFUSES_WRITES}")
        except BaseException:
            connection.terminate()
            raise
    if refuses:
        connection.terminate()
        raise asyncpg.ReadOnlySQLTransactionError(_REFUSED)
    return connection
