"""The product in a chaos run: every connection between its processes goes through a proxy."""

import random
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import asyncpg

from bench.chaos.endpoint import RETRY_SECONDS, Endpoint, running_endpoint
from bench.chaos.faults import World
from bench.chaos.history import History
from bench.chaos.mailroom import Mailroom
from bench.chaos.proxy import HOST, Link, proxied
from bench.chaos.repliers import Inbound
from bench.chaos.run import System
from bench.chaos.verdict import Verdict, compare, state_of
from deploy.local.ports import free_ports
from deploy.local.processes import Spawn, spawn
from tests.helpers.smtp_server import serving
from tests.system.helpers.product import PROCESSES, SECRET, headers_of, running_product

ROLES = ("conversations", "notifications")
SETTINGS = {
    "CHATS_LOG_LEVEL": "warning",
    "CHATS_EMAIL_DELAY_SECONDS": "1",
    "CHATS_EMAIL_RETRY_SECONDS": ",".join(["1", "2", "3", "5", "8", *["10"] * 50]),
    "CHATS_EMAIL_UNCERTAIN_SECONDS": "5",
    "CHATS_INBOUND_DOMAIN": "in.store.test",
    "CHATS_INBOUND_SECRET": SECRET,
    "CHATS_WEBHOOK_PRIVATE_HOSTS": HOST,
    "CHATS_WEBHOOK_RETRY_SECONDS": ",".join(map(str, RETRY_SECONDS)),
    # The limits are high enough to reject and delay nothing, but not off: everything is counted as usual.
    "CHATS_LIMIT_MAILS_PER_10_MINUTES": "100000",
    "CHATS_LIMIT_MESSAGES_PER_MINUTE": "100000",
    "CHATS_LIMIT_ADMIN_MESSAGES_PER_MINUTE": "100000",
}
# The connections between processes, and the setting with the URL of each.
CONNECTIONS = {
    ("api", "postgres"): "CHATS_CONVERSATIONS_DATABASE_URL",
    ("api", "broker"): "CHATS_REDIS_URL",
    ("relay", "postgres"): "CHATS_CONVERSATIONS_DATABASE_URL",
    ("relay", "broker"): "CHATS_BROKER_URL",
    ("notifications-api", "postgres"): "CHATS_NOTIFICATIONS_DATABASE_URL",
    ("worker", "postgres"): "CHATS_NOTIFICATIONS_DATABASE_URL",
    ("worker", "broker"): "CHATS_BROKER_URL",
    ("worker", "mail server"): "CHATS_SMTP_URL",
    ("sweeper", "postgres"): "CHATS_NOTIFICATIONS_DATABASE_URL",
    ("sweeper", "mail server"): "CHATS_SMTP_URL",
    ("sweeper", "feed"): "CHATS_CONVERSATIONS_URL",
    ("jobs", "postgres"): "CHATS_CONVERSATIONS_DATABASE_URL",
    ("jobs", "log of emails"): "CHATS_NOTIFICATIONS_URL",
    ("inbound", "postgres"): "CHATS_NOTIFICATIONS_DATABASE_URL",
    ("inbound", "api"): "CHATS_CONVERSATIONS_URL",
}


def link_to(name: str, url: str, rng: random.Random) -> Link:
    """Return a link to a URL's port."""
    return Link(name, urlsplit(url).port or 0, rng)


def through(link: Link, url: str) -> str:
    """Return the URL with the link's port."""
    parts = urlsplit(url)
    return parts._replace(netloc=re.sub(r":\d+$", f":{link.port}", parts.netloc)).geturl()


@asynccontextmanager
async def our_system(
    seed: int,
    *,
    names: Sequence[str] = PROCESSES,
    command: Sequence[str] = (),
    sql: Mapping[str, str] = MappingProxyType({}),
    logs: Path | None = None,
    spawn: Spawn = spawn,
) -> AsyncIterator[System]:
    """Run the product; copy its processes' logs to `logs`.

    `command` starts another build, `sql` is executed in its databases.
    """
    mail_server, rng = Mailroom(), random.Random(f"{seed} network")
    [inbound_port] = free_ports([0])
    with tempfile.TemporaryDirectory() as directory:
        async with (
            serving(mail_server),
            running_endpoint(seed) as endpoint,
            running_product(
                Path(directory),
                spawn,
                **SETTINGS,
                CHATS_SMTP_URL=f"smtp://{HOST}:{mail_server.port}",
                CHATS_INBOUND_LISTEN=f"lmtp://{HOST}:{inbound_port}",
            ) as product,
        ):
            product.command = list(command) or product.command
            product.environment["CHATS_REDIS_URL"] = product.environment["CHATS_BROKER_URL"]
            settings = {name: product.environment[name] for name in set(CONNECTIONS.values())}
            links = {ends: link_to(" to ".join(ends), settings[name], rng) for ends, name in CONNECTIONS.items()}
            front = Link("writers to api", product.ports["api"], rng)
            mail_in = Link("mail server to inbound", inbound_port, rng)
            store = Link("jobs to the store", endpoint.port, rng)
            async with proxied(front, mail_in, store, *links.values()):
                for ends, name in CONNECTIONS.items():
                    product.overrides.setdefault(ends[0], {})[name] = through(links[ends], settings[name])
                stored, recorded = (product.owner_urls[role] for role in ROLES)
                for role, statements in sql.items():
                    await execute(product.owner_urls[role], statements)
                await product.start(*names)
                await endpoint.subscribe(product, store.port)
                world = World(
                    processes=product,
                    own=names,
                    links=[front, mail_in, store, *links.values()],
                    mail_server=mail_server,
                    broker_url=settings["CHATS_BROKER_URL"],
                    superuser_url=product.superuser_url,
                    roles=ROLES,
                )
                system = System(
                    title="Customer Chats",
                    world=world,
                    url=f"http://{HOST}:{front.port}",
                    headers=headers_of,
                    whole=True,
                    records_url=recorded,
                    inbound=Inbound(HOST, mail_in.port, mail_server),
                    state=lambda: state_of(stored, recorded),
                    compare=lambda history: _compare(stored, recorded, history, mail_server, endpoint),
                )
                try:
                    yield system
                finally:
                    keep_logs(Path(directory), logs)


async def _compare(stored: str, recorded: str, history: History, mail_server: Mailroom, endpoint: Endpoint) -> Verdict:
    verdict = await compare(stored, recorded, history, mail_server)
    await endpoint.compare(stored, recorded, verdict)
    return verdict


async def execute(url: str, sql: str) -> None:
    """Execute statements in a database."""
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def keep_logs(directory: Path, logs: Path | None) -> None:
    """Copy the processes' logs to `logs`, unless it is None."""
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        for log in directory.glob("*.log"):
            shutil.copy(log, logs)
