"""Connections to the server of a database that takes writes, whichever of its hosts that is at the moment."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from shared.outages import DATABASE_ERRORS, is_read_only

Connect = Callable[..., Awaitable["asyncpg.Connection[Any]"]]

# Asked of the server itself: what it reported when the connection began may be a pooler's memory, and "in recovery" is
# one of two reasons only.
REFUSES_WRITES = "current_setting('transaction_read_only')::boolean"


def primary_connector() -> Connect:
    """Make a function that connects as `asyncpg.connect` does, to the first host that takes writes.

    The host that took them last is asked first. A host that is silent costs no more than its share of the time.
    """
    last = 0

    async def connect(
        *, host: str | Sequence[str] = "", port: int | Sequence[int] = 5432, **options: Any
    ) -> "asyncpg.Connection[Any]":
        nonlocal last
        addresses, faults = _addresses(host, port), []
        options["timeout"] /= len(addresses)
        for step in range(len(addresses)):
            place = (last + step) % len(addresses)
            try:
                connection = await _connect(*addresses[place], options)
            except DATABASE_ERRORS as error:
                faults.append(error)
            else:
                last = place
                return connection
        # Of a dead primary and a standby that is not promoted yet, the standby tells more.
        raise next(filter(is_read_only, faults), faults[0])

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
        raise asyncpg.ReadOnlySQLTransactionError("the server takes no writes")
    return connection
