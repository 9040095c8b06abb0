"""The limits in a deployment: the real API behind the real proxy, and a broker that also counts."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from deploy.local.processes import Spawn
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROXY, Product, headers_of, running_product

TALKS = "/api/v1/conversations"


@pytest.fixture(scope="module")
async def product(tmp_path_factory: pytest.TempPathFactory, fork: Spawn) -> AsyncIterator[Product]:
    limits = {"CHATS_LIMIT_MESSAGES_PER_MINUTE": "3", "CHATS_LIMIT_SIGN_INS_PER_MINUTE": "4"}
    async with running_product(tmp_path_factory.mktemp("product"), fork, **limits) as product:
        await product.start("api", PROXY)
        yield product


async def post(product: Product, sub: str, conversation: str) -> httpx2.Response:
    return await product.call("POST", f"{TALKS}/{conversation}/messages", sub, json={"body": "Hello?"})


async def open_conversation(product: Product, sub: str) -> str:
    answer = await product.call("POST", TALKS, sub, json={"subject": "Hello"})
    return str(answer.json()["id"])


async def test_a_client_cannot_sign_in_from_a_forged_address(product: Product) -> None:
    async with httpx2.AsyncClient(base_url=product.origin, timeout=30) as client:
        answers = []
        for turn in range(3):  # a quarter of the limit may fail
            forged = {"X-Forwarded-For": f"192.0.2.{turn}", "Origin": product.origin}
            answers.append(await client.post("/session", data={"token": "guessed"}, headers=forged))
    assert [answer.status_code for answer in answers] == [401, 429, 429]


async def test_a_too_large_request_head_is_rejected_by_the_proxy(product: Product) -> None:
    async with httpx2.AsyncClient(
        base_url=product.origin, headers=headers_of("anna", "customer"), timeout=30
    ) as client:
        assert (await client.get("/api/v1/orders", params={"cursor": "a" * 20_000})).status_code == 414
        assert (await client.get("/api/v1/orders", headers={"Cookie": "a=" + "b" * 40_000})).status_code == 431
        assert (await client.get("/api/v1/orders", headers={"Cookie": "a=" + "b" * 500_000})).status_code == 431
        assert (await client.get("/api/v1/orders")).status_code == 200


async def test_while_redis_is_frozen_posts_pass_and_afterwards_the_limit_applies_again(product: Product) -> None:
    opened = await open_conversation(product, "anna")
    assert [(await post(product, "anna", opened)).status_code for _ in range(4)] == [201] * 3 + [429]
    product.freeze("broker")
    try:
        assert [(await post(product, "anna", opened)).status_code for _ in range(20)] == [201] * 20
    finally:
        product.thaw("broker")

    async def is_counted() -> bool:
        return (await post(product, "anna", opened)).status_code == 429

    assert await eventually(is_counted, deadline=30)
