"""Strike faults at random while people write, and look whether anything is lost, doubled or stuck.

`make chaos` for a minute; `CHAOS_SECONDS=3600 CHAOS_SEED=7 make chaos` for an hour with the same faults in the same
order. Writers on both sides retry with their idempotency key until they are answered with 201. Meanwhile processes are
killed and frozen, the broker is emptied and killed, database connections are cut, and the mail server refuses, defers
and drops. Then it is quiet, everything drains, and what was acknowledged is compared with the store, the records and
the mails. Exit code 1 when anything is missing, doubled without a cause, or not at its end.
"""

import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import redis.asyncio
from redis.exceptions import RedisError

from tests.smtp_server import DROP, KEEP_AND_DROP, SmtpServer, smtp_server
from tests.system.product import PROCESSES, Product, running_product

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
WRITERS = 6
CONVERSATIONS = 8
DRAIN = 120.0  # seconds to drain, afterwards


@dataclass
class History:
    """What was acknowledged, and what was done to the system."""

    admin: dict[str, float] = field(default_factory=dict)  # message id -> time of the 201
    customer: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    retries: int = 0


async def main() -> int:
    """Run, drain, compare; return the exit code."""
    print(f"seed {SEED}, {SECONDS:.0f} s of faults")
    rng = random.Random(SEED)
    settings = {
        "CHATS_EMAIL_DELAY_SECONDS": "1",
        "CHATS_EMAIL_RETRY_SECONDS": "1,2,3,5,8",
        "CHATS_EMAIL_UNCERTAIN_SECONDS": "5",
    }
    with tempfile.TemporaryDirectory() as directory:
        async with smtp_server() as mail_server:
            settings["CHATS_SMTP_URL"] = f"smtp://127.0.0.1:{mail_server.port}"
            async with running_product(Path(directory), **settings) as product:
                await product.start(*PROCESSES)
                history = History()
                await _suffer(product, mail_server, history, rng)
                faults = await _compare(product, mail_server, history)
    return 1 if faults else 0


async def _suffer(product: Product, mail_server: SmtpServer, history: History, rng: random.Random) -> None:
    conversations = [await product.open_conversation() for _ in range(CONVERSATIONS)]
    end = time.monotonic() + SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            side = "admin" if number % 2 else "customer"
            group.create_task(_write(product, history, side, conversations, random.Random(SEED + number), end))
        group.create_task(_nemesis(product, mail_server, history, rng, end))


async def _write(
    product: Product, history: History, side: str, conversations: list[str], rng: random.Random, end: float
) -> None:
    prefix, who = ("/api/v1/admin", ("sam", "admin")) if side == "admin" else ("/api/v1", ("anna", "customer"))
    while time.monotonic() < end:
        path = f"{prefix}/conversations/{rng.choice(conversations)}/messages"
        key = str(uuid4())
        while True:
            try:
                answer = await product.call("POST", path, *who, key=key, json={"body": f"Message {key}"})
            except (httpx2.HTTPError, OSError):
                answer = None
            if answer is not None and answer.status_code == 201:
                break
            if answer is not None and answer.status_code not in {502, 503}:
                raise AssertionError(f"a post was answered with {answer.status_code}: {answer.text}")
            history.retries += 1
            await asyncio.sleep(0.1)
        message = str(answer.json()["id"])
        if side == "admin":
            history.admin[message] = time.monotonic()
        else:
            history.customer.add(message)
        await asyncio.sleep(rng.random() * 0.1)


async def _nemesis(product: Product, mail_server: SmtpServer, history: History, rng: random.Random, end: float) -> None:
    def fault(what: Callable[..., Awaitable[None]], *arguments: Any) -> tuple[str, Callable[[], Awaitable[None]]]:
        name = " ".join([what.__name__.strip("_"), *(one for one in arguments if isinstance(one, str))])
        return name, lambda: what(product, rng, *arguments)

    faults = [
        *(fault(_kill, name) for name in PROCESSES),
        *(fault(_freeze, name) for name in ("relay", "worker", "sweeper")),
        fault(_empty_broker),
        fault(_kill_broker),
        *(fault(_cut_connections, service) for service in ("conversations", "notifications")),
    ]
    answers: list[dict[str, str | list[str]]] = [
        {"rcpt": ["450 4.2.0 later"] * 3},
        {"end": [KEEP_AND_DROP] * 2},
        {"end": [DROP] * 2},
        {"data": ["421 4.3.0 shutting down"] * 2},
        {"mail": ["550 5.7.1 not now"] * 2},
        {"banner": [DROP] * 2},
    ]
    while time.monotonic() < end:
        name, strike = rng.choice(faults)
        history.faults[name] += 1
        await strike()
        script = rng.choice(answers)
        history.faults[f"mail server: {next(iter(script))}"] += 1
        mail_server.script.update(script)
        await asyncio.sleep(rng.random())
    mail_server.script.clear()


async def _kill(product: Product, rng: random.Random, name: str) -> None:
    await product.kill(name)
    await asyncio.sleep(rng.random())
    await product.start(name)


async def _freeze(product: Product, rng: random.Random, name: str) -> None:
    product.freeze(name)
    await asyncio.sleep(rng.random() * 4)
    product.thaw(name)


async def _empty_broker(product: Product, _: random.Random) -> None:
    try:
        async with redis.asyncio.from_url(product.environment["CHATS_BROKER_URL"]) as broker:
            await broker.flushall()
    except RedisError:
        pass  # it is just away


async def _kill_broker(product: Product, rng: random.Random) -> None:
    await product.kill("broker")
    await asyncio.sleep(rng.random() * 4)
    await product.start("broker")


async def _cut_connections(product: Product, _: random.Random, service: str) -> None:
    connection = await asyncpg.connect(product.environment[f"CHATS_{service.upper()}_DATABASE_URL"])
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where usename = current_user and pid <> pg_backend_pid()"
    )
    await connection.close()


async def _compare(product: Product, mail_server: SmtpServer, history: History) -> int:
    """Wait until everything is at its end, print the table, and return the number of faults found."""
    started = time.monotonic()
    emails: list[dict[str, Any]] = []
    records: list[str] = []
    acknowledged = set(history.admin)
    while time.monotonic() - started < DRAIN:
        records, emails = await product.records(), await product.emails()
        told = {message for email in emails for message in email["message_ids"]}
        if acknowledged <= set(records) and acknowledged <= told and all(email["finished_at"] for email in emails):
            break
        await asyncio.sleep(1)
    drained = time.monotonic() - started

    stored = await _stored(product)
    told = {message for email in emails for message in email["message_ids"]}
    copies = Counter(message_from_bytes(mail.content)["Message-ID"] for mail in mail_server.mails)
    uncertain = sum(any(one["outcome"] == "uncertain" for one in email["tries"]) for email in emails)
    doubled = sum(count - 1 for count in copies.values())
    states = Counter(email["state"] for email in emails)
    found = {
        "acknowledged, not in the store": len((acknowledged | history.customer) - set(stored)),
        "in the store twice": len(stored) - len(set(stored)),
        "without a record": len(acknowledged - set(records)),
        "with two records": len(records) - len(set(records)),
        "records without a message": len(set(records) - set(stored)),
        "in no mail": len(acknowledged - told),
        "mails not at their end": states["scheduled"] + states["sending"],
        "mails doubled without an uncertain try": max(0, doubled - uncertain),
        "events given up on": await _parked(product),
    }
    print(f"posts acknowledged      {len(acknowledged) + len(history.customer)} ({history.retries} retries)")
    print(f"faults                  {sum(history.faults.values())}")
    for name, count in sorted(history.faults.items()):
        print(f"  {name:<28}{count}")
    print(f"drained after           {drained:.1f} s")
    print(f"mails                   {dict(states)}, {doubled} repeated, {uncertain} with an uncertain try")
    for name, count in found.items():
        print(f"{name:<40}{count}{'   <- FAULT' if count else ''}")
    return sum(found.values())


async def _parked(product: Product) -> int:
    connection = await asyncpg.connect(product.environment["CHATS_NOTIFICATIONS_DATABASE_URL"])
    count = await connection.fetchval("select count(*) from inbox where parked_at is not null")
    await connection.close()
    return int(count)


async def _stored(product: Product) -> list[str]:
    connection = await asyncpg.connect(product.environment["CHATS_CONVERSATIONS_DATABASE_URL"])
    rows = await connection.fetch("select id from messages where body like 'Message %'")
    gaps = await connection.fetchval(
        "select count(*) from conversations as c where message_count <> (select count(*) from messages"
        " where conversation_id = c.id) or message_count <> (select coalesce(max(number), 0) from messages"
        " where conversation_id = c.id)"
    )
    await connection.close()
    assert gaps == 0, "a conversation's numbers have a gap"
    return [str(row["id"]) for row in rows]


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
