"""Measure how reading and posting scale with the data: `make bench-scale`, SIZES="10000 1000000 10000000", ROUNDS=5.

One API process for each size, over HTTP, one persistent connection, one request at a time; the sizes take turns within
each round. The yardstick is the smallest size; the target is at most 1.5 times its time.
"""

import asyncio
import base64
import http.client
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import asyncpg

from bench.growth_data import LONGEST
from bench.stores import Store, ask, filled_stores, running_apis
from tests.system.helpers.product import headers_of

SIZES = [int(size) for size in os.environ.get("SIZES", "10000 1000000 10000000").split()]
ROUNDS = int(os.environ.get("ROUNDS", "5"))
REQUESTS = 15  # of each kind in a round
ADMIN = "A-0"
TARGET = 1.5

# The inbox's filters: each status, both flags, the views, an order, a customer, and both sort orders.
FILTERS: Mapping[str, list[tuple[str, str]]] = {
    "all": [],
    **{status: [("status", status)] for status in ("OPEN", "AWAITING_ADMIN", "AWAITING_USER", "RESOLVED", "CLOSED")},
    "unread": [("unread", "true")],
    "read": [("unread", "false")],
    "OPEN, unread": [("status", "OPEN"), ("unread", "true")],
    "RESOLVED, unread": [("status", "RESOLVED"), ("unread", "true")],
    "CLOSED, read": [("status", "CLOSED"), ("unread", "false")],
    "longest waiting": [("sort", "waiting")],
    "waiting view": [("status", "OPEN"), ("status", "AWAITING_ADMIN"), ("sort", "waiting")],
    "unread, longest waiting": [("unread", "true"), ("sort", "waiting")],
    "CLOSED, longest waiting": [("status", "CLOSED"), ("sort", "waiting")],
    "three, read": [*(("status", one) for one in ("OPEN", "RESOLVED", "CLOSED")), ("unread", "false")],
}


class Client:
    """A client that sends requests to one API process, one after the other."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._headers: dict[tuple[str, str], dict[str, str]] = {}

    def ask(self, method: str, path: str, sub: str, role: str, body: str | None = None) -> bytes:
        """Send a request; raise `AssertionError` unless it succeeds."""
        if (sub, role) not in self._headers:
            self._headers[sub, role] = headers_of(sub, role) | {"Content-Type": "application/json"}
        self._connection.request(method, path, body=body, headers=self._headers[sub, role])
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status < 300, (path, answer.status, content)
        return content

    def seconds(self, *request: str) -> float:
        """Return the median time of a repeated request."""
        self._connection.close()  # the server has closed it while other clients had their turn
        self.ask(*request)
        times = []
        for _ in range(REQUESTS):
            started = time.perf_counter()
            self.ask(*request)
            times.append(time.perf_counter() - started)
        return statistics.median(times)


Requests = Mapping[str, tuple[str, ...]]


async def main() -> None:
    """Fill the stores, measure them, and print the table."""
    with tempfile.TemporaryDirectory() as name:
        async with filled_stores(Path(name), SIZES) as stores:
            await measure(Path(name), stores)


async def measure(directory: Path, stores: Sequence[Store]) -> None:
    """Measure stores of several sizes, the smallest first, and print the comparison."""
    async with running_apis(directory, stores, CHATS_LOG_LEVEL="warning") as ports:
        clients = [Client(port) for port in ports]
        requests = [await _requests(store, client) for store, client in zip(stores, clients, strict=True)]
        times: defaultdict[str, list[list[float]]] = defaultdict(list)
        for number in range(ROUNDS + 1):  # the first one is a warm-up
            for kind in requests[0]:
                row = [client.seconds(*by_kind[kind]) for client, by_kind in zip(clients, requests, strict=True)]
                if number:
                    times[kind].append(row)
    print(f"{'ms':34}" + "".join(f"{store.messages:>12}" for store in stores) + "   worst ratio")
    for kind, rows in times.items():
        medians = [statistics.median(column) * 1000 for column in zip(*rows, strict=True)]
        ratios = [statistics.median(row[size] / row[0] for row in rows) for size in range(1, len(stores))]
        worst = max(ratios, default=1.0)
        print(
            f"{kind:34}" + "".join(f"{median:12.2f}" for median in medians) + f"{worst:10.2f}{' !' * (worst > TARGET)}"
        )
    for store in stores:
        await _print_sizes(store)


async def _requests(store: Store, client: Client) -> Requests:
    """Return a store's requests by name: the same ones for each store, about comparable data."""
    typical = await ask(store, _CUSTOMER_OF_A_FEW)
    short, long = await find_thread(store, 8), await find_thread(store, LONGEST)
    order = await ask(store, "select number from orders order by id limit 1")
    own, inbox = "/api/v1/conversations", "/api/v1/admin/conversations"
    admin = (ADMIN, "admin")
    requests: dict[str, tuple[str, ...]] = {
        "customer, first page": ("GET", own, typical["user_id"], "customer"),
        "customer, badge": ("GET", "/api/v1/unread", typical["user_id"], "customer"),
        "biggest customer, first page": ("GET", own, "C-0", "customer"),
        "biggest customer, deep page": ("GET", await deep_page(store, client, own, "C-0"), "C-0", "customer"),
        "biggest customer, badge": ("GET", "/api/v1/unread", "C-0", "customer"),
        "short thread": ("GET", f"{own}/{short['id']}/messages", short["user_id"], "customer"),
        "longest thread, oldest": ("GET", f"{inbox}/{long['id']}/messages", *admin),
        "longest thread, newest": ("GET", f"{inbox}/{long['id']}/messages?order=desc", *admin),
        "admins' badge": ("GET", "/api/v1/unread", *admin),
        "counts": ("GET", f"{inbox}/counts", *admin),
        "inbox, deep page": ("GET", await deep_page(store, client, inbox, None), *admin),
    }
    for name, filters in FILTERS.items():
        requests[f"inbox, {name}"] = ("GET", f"{inbox}?{urlencode(filters)}", *admin)
    for kind, user_id in (("customer", typical["user_id"]), ("biggest customer", "C-0")):
        requests[f"inbox, {kind}"] = ("GET", f"{inbox}?user_id={user_id}", *admin)
        requests[f"inbox, {kind}, OPEN"] = ("GET", f"{inbox}?user_id={user_id}&status=OPEN", *admin)
        requests[f"inbox, {kind}, unread"] = ("GET", f"{inbox}?user_id={user_id}&unread=true", *admin)
        requests[f"inbox, {kind}, waiting"] = ("GET", f"{inbox}?user_id={user_id}&sort=waiting", *admin)
    requests["inbox, order number"] = ("GET", f"{inbox}?order_number={order['number']}", *admin)
    requests["customers, a name"] = ("GET", "/api/v1/admin/users?q=customer%20c4ca4238", *admin)
    requests["customers, no such name"] = ("GET", "/api/v1/admin/users?q=nobody%20at%20all", *admin)
    requests["customer posts"] = (
        *("POST", f"{own}/{short['id']}/messages", short["user_id"], "customer"),
        json.dumps({"body": "Where is it now? " * 8}),
    )
    requests["admin posts"] = ("POST", f"{inbox}/{long['id']}/messages", *admin, requests["customer posts"][-1])
    return requests


async def find_thread(store: Store, at_most: int) -> asyncpg.Record:
    """Return the id and the `user_id` of the longest conversation with at most `at_most` messages."""
    return await ask(store, _LONGEST, at_most)


async def deep_page(store: Store, client: Client, path: str, customer: str | None) -> str:
    """Return the path of a page after four fifths of a list: the cursor of another page, moved there."""
    content = json.loads(client.ask("GET", f"{path}?limit=1", customer or ADMIN, "customer" if customer else "admin"))
    cursor: str = content["next_cursor"]
    fingerprint = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[0]
    row = await ask(store, _FAR_DOWN, customer)
    key = [fingerprint, row["last_activity_at"].isoformat(), str(row["id"])]
    return f"{path}?cursor={base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip('=')}"


async def _print_sizes(store: Store) -> None:
    sizes = await ask(store, _SIZES)
    per_message = sizes["total"] / sizes["messages"]
    print(
        f"{store.messages} asked for: {sizes['messages']} messages in {sizes['talks']} conversations of"
        f" {sizes['customers']} customers, the biggest with {sizes['biggest']}, the longest of {sizes['longest']};"
        f" {sizes['total'] / 2**20:.0f} MiB, {per_message:.0f} bytes a message, of which its table"
        f" {sizes['message_rows'] / sizes['messages']:.0f} and that table's indexes"
        f" {sizes['message_indexes'] / sizes['messages']:.0f}; a conversation {sizes['talk_bytes']:.0f}"
    )


_CUSTOMER_OF_A_FEW = """
    select user_id from conversations group by user_id having count(*) between 3 and 5 order by user_id limit 1
"""
_LONGEST = """
    select id, user_id from conversations where message_count <= $1 order by message_count desc, id limit 1
"""
_FAR_DOWN = """
    with list as (select id, last_activity_at from conversations where $1::text is null or user_id = $1)
    select * from list order by last_activity_at desc, id desc offset (select count(*) * 4 / 5 from list) limit 1
"""
_SIZES = """
    select (select count(*) from messages) as messages, (select count(*) from conversations) as talks,
        (select count(*) from users where role = 'customer') as customers,
        (select count(*) from conversations where user_id = 'C-0') as biggest,
        (select max(message_count) from conversations) as longest,
        pg_table_size('messages') as message_rows, pg_indexes_size('messages') as message_indexes,
        pg_total_relation_size('conversations')::float8 / (select count(*) from conversations) as talk_bytes,
        (select sum(pg_total_relation_size(oid)) from pg_class
            where relkind = 'r' and relnamespace = 'public'::regnamespace)::float8 as total
"""

if __name__ == "__main__":
    asyncio.run(main())
