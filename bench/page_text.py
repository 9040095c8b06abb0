"""Measure the cost of a thread's page by the text of its messages: `python -m bench.page_text`.

A page of 50 messages of 10,000 characters of one kind, and of 5,000; CPU time of the API process, the minimum of
ROUNDS=3 requests. The yardstick in the same run is the page of plain words. Promised: under 300 ms, and at most 2.5
times as much for twice the text.
"""

import asyncio
import os
import string
import tempfile
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx2

from tests.system.helpers.product import Product, headers_of, running_product

ROUNDS = int(os.environ.get("ROUNDS", "3"))
MESSAGES = 50
LENGTH = 10_000
LONGEST = 300  # ms
KINDS = {
    "plain words": "word and ",
    "one long word": "w",
    "web addresses": "https://shop.example/a ",
    "web addresses, without a space": "https://shop.example/a,",
    "email addresses": "anna@shop.example ",
    "names of files": "file.txt ",
    "empty lines": "\n",
    "letters with accents": "é",
    "accents without letters": "\u0301",
    "Chinese": "中",
    "Hebrew": "\u05d0",
    "emoji": "\U0001f600",
    "direction marks": "\u202e",
    "zero-width spaces": "\u200b",
    **{f"the sign {sign}": sign for sign in string.punctuation},
    **{f"a word and the sign {sign}": f"a{sign}" for sign in string.punctuation},
}
_CONVERSATION = """
insert into conversations (id, user_id, subject, status, is_read_by_admin, is_read_by_user, message_count,
    last_customer_number, created_at, last_activity_at, changed_at, unanswered_since)
values ($1, 'anna', 'Text', 'OPEN', false, true, $2, $2, now(), now(), now(), now())
"""
_MESSAGES = """
insert into messages (id, conversation_id, number, sender_id, sender_role, body, created_at)
select gen_random_uuid(), $1, n, 'anna', 'customer', $3, now() from generate_series(1, $2) n
"""


async def main() -> None:
    """Measure and print, the most expensive kinds first."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_product(Path(directory), CHATS_STORE_ORIGINS="http://store.test") as product:
            await product.start("api")
            database = await asyncpg.connect(product.superuser_url.removesuffix("/postgres") + "/conversations")
            await database.execute("insert into users (id, role, name) values ('anna', 'customer', 'Anna')")
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{product.ports['api']}", timeout=60) as client:
                await _sign_in(client)
                costs = {kind: await _measure(product, database, client, unit) for kind, unit in KINDS.items()}
            await database.close()
    plain, _ = costs["plain words"]
    print(f"{'50 messages of':<34}{'10,000':>10}{'of plain words':>18}{'of 5,000':>12}")
    for kind, (long, short) in sorted(costs.items(), key=lambda item: -item[1][0]):
        missed = "  MISSED" if long > LONGEST or long > 2.5 * short else ""
        print(f"{kind:<34}{long:>7.0f} ms{long / plain:>18.2f}{long / short:>12.2f}{missed}")


async def _sign_in(client: httpx2.AsyncClient) -> None:
    token = headers_of("sam", "admin")["Authorization"].removeprefix("Bearer ")
    answer = await client.post("/session", data={"token": token}, headers={"Origin": "http://store.test"})
    assert answer.status_code == 303, answer.text


async def _measure(
    product: Product, database: "asyncpg.Connection[asyncpg.Record]", client: httpx2.AsyncClient, unit: str
) -> tuple[float, float]:
    """Return the CPU time in ms of a page of long messages, and of one with messages half as long."""
    pages = []
    for length in (LENGTH, LENGTH // 2):
        conversation = uuid4()
        await database.execute(_CONVERSATION, conversation, MESSAGES)
        await database.execute(_MESSAGES, conversation, MESSAGES, (unit * length)[:length])
        pages.append(f"/admin/dashboard/conversation/{conversation}/?peek=true")
    costs = [[await _cost(product, client, page) for page in pages] for _ in range(ROUNDS)]
    return min(long for long, _ in costs), min(short for _, short in costs)


async def _cost(product: Product, client: httpx2.AsyncClient, page: str) -> float:
    before = _cpu(product)
    (await client.get(page)).raise_for_status()
    return _cpu(product) - before


def _cpu(product: Product) -> float:
    """Return the API process's CPU time in ms; `cpu_times` only counts in steps of 10 ms."""
    processes = product.family("api")
    return sum(int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) for process in processes) / 1e6


if __name__ == "__main__":
    asyncio.run(main())
