"""The product as real processes on this machine, for tests that stop, kill and starve them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from pydantic import SecretStr

from deploy.local import valkey as valkey_server
from deploy.local.ports import free_ports
from deploy.local.postgres import create_databases, throwaway_postgres
from deploy.local.processes import Child, end, last_lines, spawn
from deploy.local.readiness import answers_ok
from shared.auth import issue_token
from shared.settings import TokenSettings
from tests.support import eventually

SECRET = "a secret for tests with 32 bytes or more"
PROCESSES = ("api", "notifications-api", "relay", "worker", "sweeper")
SECRET_OF_VALKEY = "valkey"


class Product:
    """All processes of the product, each of which a test may stop, kill, start again, or start twice."""

    def __init__(self, directory: Path, environment: dict[str, str], broker: Child) -> None:
        self.directory = directory
        self.environment = environment
        self.ports = dict(zip(PROCESSES, free_ports([0] * len(PROCESSES)), strict=True))
        self.environment["CHATS_CONVERSATIONS_URL"] = f"http://127.0.0.1:{self.ports['api']}"
        self.command = [sys.executable, "-m", "deploy.cli"]  # another one starts a build that was tampered with
        self._broker = broker
        self._running: dict[str, tuple[Child, asyncio.subprocess.Process]] = {}
        self._http = httpx2.AsyncClient(timeout=30)

    async def start(self, *names: str) -> None:
        """Start processes and wait until each is ready; `relay-2` is a second relay."""
        for name in names:
            child = self._broker if name == "broker" else self._describe(name)
            self._running[name] = (child, await spawn(child))
        for name in names:
            child, process = self._running[name]

            async def ready(child: Child = child, process: asyncio.subprocess.Process = process) -> bool:
                if process.returncode is not None:
                    raise RuntimeError(f"{child.name} ended:{last_lines(child.log)}")
                return await child.ready()

            await eventually(ready, deadline=60)

    async def stop(self, *names: str) -> None:
        """Stop processes as an operator would."""
        for name in names:
            child, process = self._running.pop(name)
            await end(process, child.stop_signal, child.grace)

    async def kill(self, *names: str) -> None:
        """Kill processes with -9, and what they started."""
        for name in names:
            child, process = self._running.pop(name)
            await end(process, signal.SIGKILL, child.grace)

    def pid(self, name: str) -> int:
        """Return the id of a running process."""
        return self._running[name][1].pid

    def freeze(self, name: str) -> None:
        """Stop a process in its tracks until it is thawed."""
        self._running[name][1].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self._running[name][1].send_signal(signal.SIGCONT)

    async def chats(self, *arguments: str) -> tuple[int, str]:
        """Run a command of `chats`; return its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "deploy.cli", *arguments),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def call(
        self, method: str, path: str, sub: str = "anna", role: str = "customer", key: str | None = None, **options: Any
    ) -> httpx2.Response:
        """Call the API that owns the path, as somebody."""
        process = "notifications-api" if path.startswith("/api/v1/notifications") else "api"
        settings = TokenSettings(auth_secret=[SecretStr(SECRET)])
        claims = {"sub": sub, "role": role, "name": sub.title(), "email": f"{sub}@customer.test"}
        headers = {"Authorization": f"Bearer {issue_token(settings, claims, timedelta(hours=1))}"}
        if key is not None:
            headers["Idempotency-Key"] = key
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
        """Return the ids of the messages that a customer has a notification for."""
        return [item["message_id"] for item in await self._all("/api/v1/notifications", sub, "customer")]

    async def emails(self) -> list[dict[str, Any]]:
        """Return what became of each mail."""
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

    async def close(self) -> None:
        """Stop everything that still runs, the broker last."""
        await self._http.aclose()
        for name in sorted(self._running, key=lambda name: name == "broker"):
            await self.kill(name)

    def _describe(self, name: str) -> Child:
        kind = name.removesuffix("-2")
        port = self.ports[kind] if name == kind else free_ports([0])[0]
        return Child(
            name=name,
            command=[*self.command, kind, "--port", str(port)],
            log=self.directory / f"{name}.log",
            ready=answers_ok(port, "/readyz"),
            environment=self.environment,
        )


@asynccontextmanager
async def running_product(directory: Path, **settings: str) -> AsyncIterator[Product]:
    """Run databases and broker of its own, migrated, and give the product; the test starts its processes."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(throwaway_postgres(directory / "postgres"))
        passwords = {"conversations": "test", "notifications": "test"}
        await create_databases(server, passwords)
        [port] = free_ports([0])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATS_")}
        environment |= {
            **{f"CHATS_{name.upper()}_DATABASE_URL": server.url(name, name, "test") for name in passwords},
            "CHATS_BROKER_URL": valkey_server.url(port, SECRET_OF_VALKEY),
            "CHATS_AUTH_SECRET": SECRET,
            "CHATS_FEED_SECRET": SECRET,
            "CHATS_DATA_DIR": str(directory),
            "CHATS_EMAIL_FROM": "Test Store <support@store.test>",
            **settings,
        }
        broker = valkey_server.valkey(directory / "valkey", port, SECRET_OF_VALKEY, directory / "valkey.log")
        product = Product(directory, environment, broker)
        stack.push_async_callback(product.close)
        code, output = await product.chats("migrate")
        assert code == 0, output
        await product.start("broker")
        yield product
