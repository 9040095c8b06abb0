"""The product as a broker user with the rights in docs/brokers.md, and no others."""

import re
from pathlib import Path

import pytest
import redis.asyncio

from tests.helpers.waiting import eventually
from tests.system.helpers.product import SECRET_OF_VALKEY, Product

pytestmark = pytest.mark.timeout(240)  # starts everything twice

DOCUMENT = Path(__file__).parents[2] / "docs" / "brokers.md"


def documented_rule(user: str) -> list[str]:
    """Return the words of the command in the document, after `ACL SETUSER`, with the tests' password."""
    [line] = re.findall(rf"^ACL SETUSER ({user} .+)$", DOCUMENT.read_text(), re.MULTILINE)
    return str(line).replace(">PASSWORD", f">{SECRET_OF_VALKEY}").split()


async def test_a_user_with_the_documented_rights_is_refused_nothing(product: Product) -> None:
    full = product.environment["CHATS_BROKER_URL"]
    await product.stop("relay", "worker", "api")
    async with redis.asyncio.from_url(full, decode_responses=True) as broker:
        for user in ("chats", "limits"):
            await broker.execute_command("ACL", "SETUSER", *documented_rule(user))  # type: ignore[no-untyped-call]
        await broker.acl_log_reset()
        product.environment["CHATS_BROKER_URL"] = full.replace("//:", "//chats:")
        product.environment["CHATS_REDIS_URL"] = full.replace("//:", "//limits:")
        product.environment["CHATS_LIMIT_MESSAGES_PER_MINUTE"] = "60"
        await product.start("relay", "worker", "api")
        conversation = await product.open_conversation()
        await product.call("POST", f"/api/v1/conversations/{conversation}/messages", json={"body": "And?"})
        message = await product.reply(conversation)
        await eventually(lambda: handled_by_the_worker(product, message))
        output = await eventually(lambda: a_worker_answers(product))
        assert "Redis: usable" in output, output
        assert await broker.acl_log() == []


async def handled_by_the_worker(product: Product, message: str) -> bool:
    return message in product.log_of("worker")


async def a_worker_answers(product: Product) -> str | None:
    """Return what the doctor says about the broker, once a worker answers."""
    code, output = await product.chats("doctor", "broker")
    return output if code < 2 and "1 worker answers" in output else None
