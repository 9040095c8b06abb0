"""The same faults against plain Celery with Redis, to compare what it loses and duplicates: `make chaos-baseline`."""

import asyncio
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg

from bench.chaos.faults import World
from bench.chaos.history import History
from bench.chaos.mailroom import Mailroom
from bench.chaos.ours import execute, keep_logs, link_to, through
from bench.chaos.proxy import HOST, Link, proxied
from bench.chaos.run import System, plan_from_environment, run
from bench.chaos.verdict import Verdict
from bench.plain_celery import TABLES
from deploy.local.ports import free_ports
from deploy.local.postgres import create_databases
from deploy.local.processes import Child
from deploy.local.readiness import answers_ok
from tests.helpers.smtp_server import serving
from tests.system.helpers.processes import Processes, at_once, without_settings
from tests.system.helpers.product import own_servers

ROLE = "plain"
WAYS = {
    ("api", "postgres"): "PLAIN_DATABASE_URL",
    ("api", "broker"): "PLAIN_BROKER_URL",
    ("worker", "postgres"): "PLAIN_DATABASE_URL",
    ("worker", "broker"): "PLAIN_BROKER_URL",
    ("worker", "mail server"): "PLAIN_SMTP_URL",
}


LOGS = Path(os.environ["CHAOS_LOGS"]) if "CHAOS_LOGS" in os.environ else None
DRAIN = 100.0  # seconds without progress: longer than the broker waits before it redelivers


@asynccontextmanager
async def plain_celery(seed: int) -> AsyncIterator[System]:
    """Run the baseline's API and worker, with the same proxies on all connections."""
    mail_server, rng = Mailroom(), random.Random(f"{seed} network")
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await stack.enter_async_context(serving(mail_server))
        servers = await stack.enter_async_context(own_servers(directory))
        [port] = free_ports([0])
        url = servers.database.url(ROLE, ROLE, "test")
        settings = {
            "PLAIN_DATABASE_URL": url,
            "PLAIN_BROKER_URL": servers.broker_url,
            "PLAIN_SMTP_URL": f"smtp://{HOST}:{mail_server.port}",
        }
        links = {ends: link_to(" to ".join(ends), settings[name], rng) for ends, name in WAYS.items()}
        front = Link("writers to api", port, rng)
        await stack.enter_async_context(proxied(front, *links.values()))

        def child(name: str) -> Child:
            overrides = {
                WAYS[ends]: through(link, settings[WAYS[ends]]) for ends, link in links.items() if ends[0] == name
            }
            return Child(
                name=name,
                command=[sys.executable, "-m", "bench.plain_celery", name, "--port", str(port)],
                log=directory / f"{name}.log",
                ready=answers_ok(port, "/readyz") if name == "api" else at_once,
                environment=without_settings() | settings | overrides,
            )

        processes = Processes(servers.children, child)
        stack.callback(keep_logs, directory, LOGS)
        stack.push_async_callback(processes.close)
        await processes.start("postgres", "broker")
        await create_databases(servers.database, {ROLE: "test"})
        await execute(url, TABLES)
        await processes.start("api", "worker")
        world = World(
            processes=processes,
            own=("api", "worker"),
            links=[front, *links.values()],
            mail_server=mail_server,
            broker_url=servers.broker_url,
            superuser_url=servers.database.url(),
            roles=(ROLE,),
        )
        yield System(
            title="Plain Celery with Redis",
            world=world,
            url=f"http://{HOST}:{front.port}",
            headers=lambda _, __: {},
            whole=False,
            records_url=url,
            inbound=None,
            state=lambda: _state(url),
            compare=lambda history: _compare(url, history, mail_server),
        )


async def _state(url: str) -> tuple[bool, object]:
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow("select count(*), count(mailed_at) from notifications")
    await connection.close()
    assert row is not None
    return row[0] == row[1], tuple(row)


async def _compare(url: str, history: History, mail_server: Mailroom) -> Verdict:
    connection = await asyncpg.connect(url)
    stored = {str(row[0]) for row in await connection.fetch("select id from messages")}
    recorded = {str(row[0]) for row in await connection.fetch("select message_id from notifications")}
    await connection.close()
    replies = [posted for posted in history.posted if posted.by_admin]
    copies = {posted.id: mail_server.copies[f"<{posted.id}@store.test>"] for posted in replies}
    verdict = Verdict()
    verdict.faults = {
        "acknowledged, but not in the store": sum(posted.id not in stored for posted in history.posted),
        "without a notification": sum(posted.id not in recorded for posted in replies),
        "in no email": sum(posted.id in recorded and not copies[posted.id] for posted in replies),
        "emailed more than once": sum(count > 1 for count in copies.values()),
        "emailed more than twice": sum(count > 2 for count in copies.values()),
    }
    verdict.facts = {"admins' replies": len(replies), "copies": mail_server.copies.total()}
    return verdict


async def main() -> None:
    """Run the faults, and print the table."""
    plan = replace(plan_from_environment(), drain=DRAIN)
    async with plain_celery(plan.seed) as system:
        await run(plan, system)


if __name__ == "__main__":
    asyncio.run(main())
