"""Measure the bulk import: `python -m bench.importing`, USERS=20000, ROUNDS=5.

As many users and orders in one request to one API process, first new and then again; a sample of the same by PUTs, one
after the other over one connection. The yardstick, in turn with them, is COPY of the same rows into the same tables,
with their indexes, over one connection. The CPU time is that of the API process.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil

from tests.system.helpers.product import Product, headers_of, running_product

USERS = int(os.environ.get("USERS", "20000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SAMPLE = 200  # of each, by PUTs
STORE = "/api/v1/store"
MOMENT = "2026-01-02T03:04:05Z"
_USER = ("id", "role", "name", "email", "locale", "zoneinfo", "updated_at", "synced_at")
_ORDER = (
    "id",
    "user_id",
    "number",
    "status",
    "total",
    "currency",
    "placed_at",
    "url",
    "items",
    "updated_at",
    "synced_at",
)

Line = dict[str, Any]


async def main() -> None:
    """Print each round, and the medians."""
    with tempfile.TemporaryDirectory() as name:
        async with running_product(Path(name)) as product:
            await product.start("api")
            await _compare(product)


async def _compare(product: Product) -> None:
    users, orders = [_user(number) for number in range(USERS)], [_order(number) for number in range(USERS)]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in [*users, *orders])
    sample = [*users[:SAMPLE], *orders[:SAMPLE]]
    database = await asyncpg.connect(f"{product.superuser_url.removesuffix('/postgres')}/conversations")
    port = str(product.ports["api"])
    [api] = [process for process in psutil.Process().children() if port in process.cmdline()]
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)

    async def measure(name: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
        used, began = sum(api.cpu_times()[:2]), time.perf_counter()
        await work()
        rates[name].append(count / (time.perf_counter() - began))
        cpu[name].append((sum(api.cpu_times()[:2]) - used) / count)

    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}{STORE}", headers=headers_of("shop", "store"), timeout=600
    ) as shop:
        for _ in range(ROUNDS):
            await _empty(database)
            await measure("COPY", 2 * USERS, lambda: _copy(database, users, orders))
            await _empty(database)
            await measure("import, new", 2 * USERS, lambda: _import(shop, body, 201))
            await measure("import, again", 2 * USERS, lambda: _import(shop, body, 200))
            await _empty(database)
            await measure("PUTs, new", 2 * SAMPLE, lambda: _put(shop, sample, 201))
            await measure("PUTs, again", 2 * SAMPLE, lambda: _put(shop, sample, 200))
            print("  ".join(f"{name} {measured[-1]:.0f}" for name, measured in rates.items()), flush=True)
    await database.close()
    for name, measured in rates.items():
        ratio = statistics.median(own / copy for own, copy in zip(measured, rates["COPY"], strict=True))
        cost = statistics.median(cpu[name]) * 1e6
        rate = statistics.median(measured)
        print(f"{name:14} {rate:7.0f} lines/s, {ratio:.3f} of COPY, {cost:4.0f} µs of the API's CPU")


def _user(number: int) -> Line:
    name, email = f"Customer Number {number}", f"c-{number}@customer.test"
    profile = {"name": name, "email": email, "locale": "de-AT", "zoneinfo": "Europe/Vienna"}
    return {"type": "user", "id": f"C-{number}", **profile, "updated_at": MOMENT}


def _order(number: int) -> Line:
    items = [{"name": f"Teapot {turn}", "quantity": 1, "unit_price": "29.95"} for turn in range(2)]
    fields = {"user_id": f"C-{number}", "number": f"{number}", "status": "shipped", "total": "59.90", "currency": "EUR"}
    more = {"placed_at": MOMENT, "url": f"https://store.test/orders/{number}", "items": items, "updated_at": MOMENT}
    return {"type": "order", "id": f"A-{number}", **fields, **more}


async def _empty(database: "asyncpg.Connection[Any]") -> None:
    await database.execute("truncate users, orders, events cascade")
    await database.execute("checkpoint")


async def _copy(database: "asyncpg.Connection[Any]", users: list[Line], orders: list[Line]) -> None:
    now = datetime.now(UTC)
    more = {"role": "customer", "updated_at": now, "synced_at": now, "placed_at": now}
    for table, columns, lines in (("users", _USER, users), ("orders", _ORDER, orders)):
        rows = [{**line, **more, "items": json.dumps(line.get("items"))} for line in lines]
        records = [tuple(row[name] for name in columns) for row in rows]
        await database.copy_records_to_table(table, records=records, columns=columns)


async def _import(shop: httpx2.AsyncClient, body: bytes, status: int) -> None:
    answer = await shop.post("/import", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.text.count(f'"status": {status}}}') == 2 * USERS, answer.text[:1000]


async def _put(shop: httpx2.AsyncClient, lines: list[Line], status: int) -> None:
    for line in lines:
        fields = {name: value for name, value in line.items() if name not in {"type", "id"}}
        answer = await shop.put(f"/{line['type']}s/{line['id']}", json=fields)
        assert answer.status_code == status, answer.text


if __name__ == "__main__":
    asyncio.run(main())
