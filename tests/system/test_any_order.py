"""Processes can start in any order, wait for missing servers, and work once these are there."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from deploy.local.processes import Spawn
from tests.helpers.smtp_server import smtp_server
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, Product, bare_product
from tests.system.test_faults import all_recorded_once, drained

NOTIFICATIONS = ("sweeper", "worker", "notifications-api")
CONVERSATIONS = ("relay", "api")


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Product]:
    """A product of which nothing runs yet."""
    async with smtp_server() as mail_server:
        settings = {
            "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
            "CHATS_EMAIL_DELAY_SECONDS": "1",
        }
        async with bare_product(tmp_path, **settings) as product:
            yield product


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_all_processes_wait_for_missing_servers_and_then_work(bare: Product, fork: Spawn) -> None:
    await bare.launch(*reversed(PROCESSES))
    bare.spawn = fork  # to start them again
    for name in PROCESSES:
        await eventually(lambda name=name: waits(bare, name, "does not answer"), deadline=30)  # type: ignore[misc]
        assert "waiting for the database" in bare.log_of(name)

    await bare.start("postgres")
    await bare.create_databases()
    for name in PROCESSES:
        await eventually(lambda name=name: waits(bare, name, "run: chats migrate"))  # type: ignore[misc]

    await bare.migrate()
    await bare.until_ready(*PROCESSES)
    for name in ("worker", "relay"):
        await eventually(lambda name=name: has_logged(bare, name, "the broker cannot be reached"))  # type: ignore[misc]
    without_broker = await bare.reply(await bare.open_conversation())
    await drained(bare, [without_broker])

    await bare.stop("sweeper")  # so that only the worker can handle the event
    await bare.start("broker")
    for name in ("worker", "relay"):  # until they have noticed, only the sweeper handles events
        await eventually(lambda name=name: has_logged(bare, name, "broker usable again"))  # type: ignore[misc]
    by_worker = await bare.reply(await bare.open_conversation())
    await drained(bare, [by_worker])

    await bare.stop(*CONVERSATIONS, "worker", "notifications-api")
    await bare.start(*NOTIFICATIONS)
    await eventually(lambda: "event feed unavailable" in bare.log_of("sweeper"))
    await bare.start(*CONVERSATIONS)
    afterwards = await bare.reply(await bare.open_conversation())
    await drained(bare, [afterwards])
    assert await all_recorded_once(bare, [without_broker, by_worker, afterwards])


async def waits(product: Product, name: str, why: str) -> bool:
    """Return whether a process is healthy but not ready, with this reason."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{product.ports[name]}", timeout=30) as client:
        try:
            alive, ready = await client.get("/healthz"), await client.get("/readyz")
        except httpx2.TransportError:
            return False
    return (alive.status_code, ready.status_code) == (200, 503) and why in ready.json()["reason"]


async def has_logged(product: Product, name: str, words: str) -> bool:
    """Return whether a process has logged this recently."""
    return words in product.log_of(name)
