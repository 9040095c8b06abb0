"""Connections to the server of a database that takes writes, whichever of its hosts that is at the moment."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from shared.outages import DATABASE_ERRORS, is_read_only

Connect = Callable[..., Awaitable["asyncpg.Connection[Any]"]]

# Asked of the server itself: what it reported when the connection began may be a pooler's memory, and "in recovery" is
# one of two reasons only.
REFUSES_WRITES = "current_setting('transaction_read_only')::boolean"
REST = 0.2  # seconds
_REFUSED = "the server takes no writes"


def primary_connector() -> Connect:
    """Make a function that connects as `asyncpg.connect` does, to the first host that takes writes.

    The host that took them last is asked first. A host that is silent costs no more than its share of the time. When
    none takes any, the servers are asked again after `REST`: each attempt costs them a process.
    """
    last, rests_until = 0, 0.0

    async def connect(
        *, host: str | Sequence[str] = "", port: int | Sequence[int] = 5432, **options: Any
    ) -> "asyncpg.Connection[Any]":
        nonlocal last, rests_until
        if time.monotonic() < rests_until:
            raise asyncpg.ReadOnlySQLTransactionError(_REFUSED)
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
        fault = next(filter(is_read_only, faults), faults[0])
        if is_read_only(fault):
            rests_until = time.monotonic() + REST
        raise fault

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
