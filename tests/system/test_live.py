"""Live events through the proxy, from real processes that are killed, frozen and stopped."""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from deploy.local.ports import free_ports
from deploy.local.processes import end, spawn
from deploy.local.proxy import proxy
from shared.process.running import GRACE
from tests.helpers.sse_client import Reader, reading
from tests.helpers.waiting import eventually
from tests.system.helpers.product import Product, headers_of


@pytest.fixture(scope="module")
async def origin(product: Product) -> AsyncIterator[str]:
    """The origin of the proxy."""
    [port] = free_ports([0])
    ports = {**product.ports, "proxy": port}
    child = proxy(product.directory / "proxy", "127.0.0.1", ports, product.directory / "proxy.log")
    process = await spawn(child)
    await eventually(child.ready, deadline=30)
    yield f"http://127.0.0.1:{port}"
    await end(process, child.stop_signal, child.grace)


def live(origin: str, sub: str, role: str, last_id: str | None = None) -> AbstractAsyncContextManager[Reader]:
    return reading(origin, headers_of(sub, role), last_id=last_id)


def bodies(reader: Reader) -> list[str]:
    return [data["message"]["body"] for data in reader.data_of("message.posted")]


async def reach(product: Product, conversation: str, body: str, *readers: Reader) -> float:
    """Reply, wait until every reader has it, and return the seconds after the response."""
    await product.reply(conversation, body)
    started = time.perf_counter()
    await eventually(lambda: all(body in bodies(reader) for reader in readers))
    return max(reader.events[-1].at for reader in readers) - started


async def test_both_sides_get_events_at_once_and_with_a_small_delay_without_the_broker(
    product: Product, origin: str
) -> None:
    conversation = await product.open_conversation()
    async with live(origin, "anna", "customer") as customer, live(origin, "sam", "admin") as admin:
        await eventually(lambda: customer.events and admin.events)

        async def hints_arrive() -> bool:
            """Return whether events arrive faster than the hub's own polling, once a second, would allow."""
            took = [
                await reach(product, conversation, f"at once {time.perf_counter()}", customer, admin) for _ in range(9)
            ]
            return statistics.median(took) < 0.4

        await reach(product, conversation, "the first", customer, admin)
        await eventually(hints_arrive, deadline=60)
        product.freeze("broker")
        assert await reach(product, conversation, "frozen", customer, admin) < 10
        product.thaw("broker")
        await product.kill("broker")
        assert await reach(product, conversation, "killed", customer, admin) < 10
        await product.start("broker")
        await eventually(hints_arrive, deadline=60)
        first = bodies(customer).index("the first")  # earlier messages were posted before both had connected
        assert bodies(customer)[first:] == bodies(admin)[bodies(admin).index("the first") :]
        assert customer.ended is admin.ended is False


async def test_stopping_with_open_streams_is_quick_and_a_reconnecting_client_misses_nothing(
    product: Product, origin: str
) -> None:
    conversation = await product.open_conversation("ben")
    async with live(origin, "ben", "customer") as customer, live(origin, "sam", "admin") as admin:
        await eventually(lambda: customer.events and admin.events)
        await reach(product, conversation, "one", customer, admin)
        started = time.monotonic()
        await product.stop("api")
        assert time.monotonic() - started < GRACE / 2, "it waited for the streams"
        await eventually(lambda: customer.ended and admin.ended)
    await product.start("api")
    sent = [f"meanwhile {n}" for n in range(20)]
    for body in sent:
        await product.reply(conversation, body)
    async with (
        live(origin, "ben", "customer", customer.last_id) as customer_again,
        live(origin, "sam", "admin", admin.last_id) as admin_again,
    ):
        await reach(product, conversation, "last", customer_again, admin_again)
        for reader in (customer_again, admin_again):
            assert bodies(reader) == [*sent, "last"]
            assert "reset" not in reader.names


async def test_a_killed_api_and_a_killed_relay_lose_no_event(product: Product, origin: str) -> None:
    conversation = await product.open_conversation()
    async with live(origin, "anna", "customer") as reader:
        await eventually(lambda: reader.events)
        await reach(product, conversation, "one", reader)
        await product.kill("relay")
        await product.reply(conversation, "two")
        await product.kill("api")
        await eventually(lambda: reader.ended)
    await product.start("api", "relay")
    await product.reply(conversation, "three")
    async with live(origin, "anna", "customer", reader.last_id) as again:
        await eventually(lambda: len(bodies(again)) == 2)
    assert bodies(again) == ["two", "three"]


async def test_a_disconnected_client_releases_its_stream_at_once(origin: str) -> None:
    async def five_open() -> bool:
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(live(origin, "zoe", "customer")) for _ in range(5)]
            await eventually(lambda: all(reader.events for reader in readers))
        return True

    for _ in range(3):
        await eventually(five_open)
