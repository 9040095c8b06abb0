"""The product as real processes on this machine, for tests that stop, kill and freeze them."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
from pydantic import SecretStr

from deploy.local import postgres
from deploy.local import valkey as valkey_server
from deploy.local.ports import free_ports
from deploy.local.processes import Child, Spawn, spawn
from deploy.local.proxy import proxy
from deploy.local.readiness import answers_ok
from shared.auth.tokens import issue_token
from shared.settings import TokenSettings
from tests.system.helpers.cluster import DATABASES, PASSWORDS, migrated_files
from tests.system.helpers.processes import Processes, at_once, without_settings

SECRET = "a secret for tests with 32 bytes or more"
CHATS = [sys.executable, "-m", "deploy.cli"]
PROCESSES = ("api", "notifications-api", "relay", "jobs", "thumbnails", "worker", "sweeper", "inbound")
PROXY = "proxy"
"""The proxy gives both APIs one origin; only browsers need it."""
LIMITS = (
    "CHATS_LIMIT_MESSAGES_PER_MINUTE",
    "CHATS_LIMIT_CONVERSATIONS_PER_DAY",
    "CHATS_LIMIT_ADMIN_MESSAGES_PER_MINUTE",
    "CHATS_LIMIT_SIGN_INS_PER_MINUTE",
    "CHATS_LIMIT_MAILS_PER_10_MINUTES",
    "CHATS_LIMIT_MAILS_PER_DAY",
)
SECRET_OF_VALKEY = "valkey"


def headers_of(sub: str, role: str) -> dict[str, str]:
    """Return headers with a user's token that is valid for a day."""
    claims = {"sub": sub, "role": role, "name": sub.title(), "email": f"{sub}@customer.test", "permissions": ["delete"]}
    token = issue_token(TokenSettings(auth_secret=[SecretStr(SECRET)]), claims, timedelta(days=1))
    return {"Authorization": f"Bearer {token}"}


class Product(Processes):
    """All processes of the product. A test may stop, kill and restart each, or start a second one: `relay-2`."""

    def __init__(self, directory: Path, environment: dict[str, str], servers: "Servers", spawn: Spawn) -> None:
        super().__init__(servers.children, self._child, spawn)
        self._database = servers.database
        self.database_options = servers.database_options
        self.superuser_url = servers.database.url()
        self.owner_urls = {name: servers.database.url(name, f"{name}{postgres.OWNER}", "test") for name in DATABASES}
        self.directory = directory
        self.environment = environment
        self.overrides: dict[str, dict[str, str]] = {}  # environment variables for one process only
        names = (*PROCESSES, PROXY)
        self.ports = dict(zip(names, free_ports([0] * len(names)), strict=True))
        self.origin = f"http://127.0.0.1:{self.ports[PROXY]}"
        self.environment["CHATS_CONVERSATIONS_URL"] = f"http://127.0.0.1:{self.ports['api']}"
        self.environment["CHATS_NOTIFICATIONS_URL"] = f"http://127.0.0.1:{self.ports['notifications-api']}"
        self.environment.setdefault("CHATS_PUBLIC_URL", self.origin)
        self.command = CHATS  # tests replace it to start a modified build
        # Idle connections end before the server closes them, after 5 s: a request must not meet that.
        self._http = httpx2.AsyncClient(timeout=30, limits=httpx2.Limits(keepalive_expiry=2))
        self._headers: dict[tuple[str, str], dict[str, str]] = {}

    async def chats(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Run a `chats` command; return its exit code and output."""
        log = self.directory / f"{uuid4()}.output"
        process = await self.spawn(
            Child(
                name="chats",
                command=[*CHATS, *arguments],
                log=log,
                ready=at_once,
                environment=self.environment | more,
            )
        )
        code = await process.wait()
        return code, log.read_text()

    async def call(
        self, method: str, path: str, sub: str = "anna", role: str = "customer", key: str | None = None, **options: Any
    ) -> httpx2.Response:
        """Call the API that serves the path, as a user."""
        process = "notifications-api" if path.startswith("/api/v1/notifications") else "api"
        if (sub, role) not in self._headers:
            self._headers[sub, role] = headers_of(sub, role)
        headers = self._headers[sub, role] | ({"Idempotency-Key": key} if key is not None else {})
        url = f"http://127.0.0.1:{self.ports[process]}{path}"
        return await self._http.request(method, url, headers=headers, **options)

    async def open_conversation(self, sub: str = "anna", subject: str = "Where is my parcel?") -> str:
        """Open a conversation as a customer; return its id."""
        answer = await self.call("POST", "/api/v1/conversations", sub, json={"subject": subject, "body": "Hello?"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def reply(self, conversation: str, body: str = "Here it is.", **options: Any) -> str:
        """Answer as an admin; return the message's id."""
        path = f"/api/v1/admin/conversations/{conversation}/messages"
        answer = await self.call("POST", path, "sam", "admin", json={"body": body}, **options)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def records(self, sub: str = "anna") -> list[str]:
        """Return the ids of the messages that a customer has notifications for."""
        return [item["message_id"] for item in await self._all("/api/v1/notifications", sub, "customer")]

    async def emails(self) -> list[dict[str, Any]]:
        """Return all emails with their states."""
        return await self._all("/api/v1/notifications/emails", "sam", "admin")

    async def _all(self, path: str, sub: str, role: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            params = {"limit": "100"} | ({"cursor": cursor} if cursor else {})
            page = (await self.call("GET", path, sub, role, params=params)).json()
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    async def create_databases(self) -> None:
        """Create both services' roles and empty databases."""
        await postgres.create_databases(self._database, PASSWORDS)

    async def migrate(self) -> None:
        """Create both services' tables as the owners, whose URLs no process gets."""
        owners = {f"CHATS_{name.upper()}_OWNER_URL": url for name, url in self.owner_urls.items()}
        code, output = await self.chats("migrate", **owners)
        assert code == 0, output

    async def close(self) -> None:
        """Kill all processes that still run."""
        await self._http.aclose()
        await super().close()

    def _child(self, name: str) -> Child:
        if name == PROXY:
            return proxy(self.directory / PROXY, "127.0.0.1", self.ports, self.directory / f"{PROXY}.log")
        kind = name.rstrip("-23")
        port = self.ports[name] if name in self.ports else self.ports.setdefault(name, free_ports([0])[0])
        return Child(
            name=name,
            command=[*self.command, kind, "--port", str(port)],
            log=self.directory / f"{name}.log",
            ready=answers_ok(port, "/readyz"),
            environment=self.environment | self.overrides.get(kind, {}) | self.overrides.get(name, {}),
        )


@dataclass(frozen=True)
class Servers:
    """A PostgreSQL and a broker for one run, as descriptions that `Processes` can start."""

    database: postgres.Server
    database_options: dict[str, str]
    broker_url: str
    children: dict[str, Callable[[], Child]]


@asynccontextmanager
async def own_servers(directory: Path, *, migrated: bool = False) -> AsyncIterator[Servers]:
    """Create the files of a PostgreSQL, empty or migrated, and a broker that lose nothing when killed at any time."""
    files = migrated_files if migrated else postgres.throwaway_files
    [port] = free_ports([0])
    broker = valkey_server.valkey(directory / "valkey", port, SECRET_OF_VALKEY, directory / "valkey.log")
    async with files(directory / "postgres") as server:
        options = dict(postgres.KILLABLE)

        def database() -> Child:
            postgres.prepare(directory / "postgres", server.port, server.password, lambda _: None)
            return postgres.postgres(server, directory / "postgres.log", options)

        children = {"postgres": database, "broker": lambda: broker}
        yield Servers(server, options, valkey_server.url(port, SECRET_OF_VALKEY), children)


@asynccontextmanager
async def running_product(directory: Path, spawn: Spawn = spawn, /, **settings: str) -> AsyncIterator[Product]:
    """Start migrated databases and a broker, and yield the product; the test starts its processes."""
    async with _product(directory, spawn, settings, migrated=True) as product:
        await product.start("postgres", "broker")
        yield product


@asynccontextmanager
async def bare_product(directory: Path, spawn: Spawn = spawn, /, **settings: str) -> AsyncIterator[Product]:
    """Yield a product of which nothing runs yet, not even `postgres` and `broker`, and without databases."""
    async with _product(directory, spawn, settings, migrated=False) as product:
        yield product


@asynccontextmanager
async def _product(
    directory: Path, spawn: Spawn, settings: Mapping[str, str], *, migrated: bool
) -> AsyncIterator[Product]:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(own_servers(directory, migrated=migrated))
        urls = {name: servers.database.url(name, name, "test") for name in DATABASES}
        environment = without_settings() | {
            **{f"CHATS_{name.upper()}_DATABASE_URL": url for name, url in urls.items()},
            "CHATS_BROKER_URL": servers.broker_url,
            "CHATS_AUTH_SECRET": SECRET,
            "CHATS_FEED_SECRET": SECRET,
            "CHATS_DATA_DIR": str(directory),
            "CHATS_DRAIN_SECONDS": "0",
            **dict.fromkeys(LIMITS, "0"),  # a few users post a lot here
            "CHATS_EMAIL_FROM": "Test Store <support@store.test>",
            **settings,
        }
        product = Product(directory, environment, servers, spawn)
        stack.push_async_callback(product.close)
        yield product
