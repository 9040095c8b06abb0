"""The example shop as a process, with a product of its own."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.ports import free_ports
from deploy.local.processes import Child, Spawn
from deploy.local.readiness import answers_ok
from tests.system.helpers.processes import Processes
from tests.system.helpers.product import SECRET, Product, running_product

SHOP = Path(__file__).parents[3] / "examples" / "shop" / "shop.py"


@dataclass
class Store:
    """The shop, its chats, and their addresses."""

    url: str
    chats_url: str
    chats: Product
    processes: Processes

    async def orders(self, customer: str) -> dict[str, dict[str, Any]]:
        """Return a customer's orders as the chats know them, by id."""
        answer = await self.chats.call("GET", "/api/v1/orders", customer)
        return {order["id"]: order for order in answer.json()["items"]}


@asynccontextmanager
async def running_store(directory: Path, spawn: Spawn) -> AsyncIterator[Store]:
    """Run the shop; the test starts the processes of the chats, which trust the shop."""
    [port] = free_ports([0])
    url = f"http://127.0.0.1:{port}"
    chats_settings = {"CHATS_STORE_ORIGINS": url, "CHATS_LOGIN_URL": f"{url}/login", "CHATS_STORE_URL": f"{url}/"}
    async with running_product(directory, spawn, **chats_settings) as chats:
        chats_url = f"http://127.0.0.1:{chats.ports['api']}"
        settings = {"CHATS_AUTH_SECRET": SECRET, "CHATS_URL": chats_url, "SHOP_PORT": str(port)}
        own_settings = {"SHOP_SECRET": SECRET[::-1], "SHOP_DATA": str(directory / "orders.json")}

        def shop(name: str) -> Child:
            return Child(
                name=name,
                command=[sys.executable, SHOP],
                log=directory / "shop.log",
                ready=answers_ok(port, "/healthz"),
                environment=settings | own_settings,
            )

        processes = Processes({}, shop)
        try:
            await processes.start("shop")
            yield Store(url, chats_url, chats, processes)
        finally:
            await processes.close()
