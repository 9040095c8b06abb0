"""The product with RabbitMQ as the broker, if the system has one."""

import os
from collections.abc import AsyncIterator

import pytest

from deploy.local.processes import Spawn
from shared.broker.celery_app import EVENTS_QUEUE, create_celery
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, Product, running_product
from tests.system.helpers.rabbitmq import EPMD, PROGRAMS, RabbitMQ
from tests.system.test_broker_rights import a_worker_answers
from tests.system.test_faults import drained, replies, the_worker_handles

pytestmark = [
    pytest.mark.timeout(300),  # a node takes 20 s to start on a busy machine
    pytest.mark.skipif(not (PROGRAMS and EPMD), reason="there is no RabbitMQ: apt install rabbitmq-server"),
]
FAULTS = pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")


@pytest.fixture(scope="module")
async def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> RabbitMQ:
    return RabbitMQ(tmp_path_factory.mktemp("rabbitmq") / "node")


@pytest.fixture(scope="module")
async def product(
    tmp_path_factory: pytest.TempPathFactory, mail_server: SmtpServer, fork: Spawn, rabbitmq: RabbitMQ
) -> AsyncIterator[Product]:
    """The whole product, with RabbitMQ in the place of Valkey."""
    settings = {
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "CHATS_EMAIL_DELAY_SECONDS": "1",
        "CHATS_BROKER_URL": rabbitmq.url,
    }
    async with running_product(tmp_path_factory.mktemp("product"), fork, **settings) as product:
        product.add("epmd", rabbitmq.mapper)
        product.add("rabbitmq", rabbitmq.node)
        await product.start("epmd", "rabbitmq")
        await rabbitmq.grant()
        await product.start(*PROCESSES)
        yield product


async def test_messages_become_emails_by_a_user_with_the_documented_permissions(product: Product) -> None:
    await eventually(lambda: the_worker_handles(product), 60)
    await drained(product, await replies(product, 8))
    assert "RabbitMQ" in await eventually(lambda: a_worker_answers(product))


@FAULTS
async def test_a_restart_delays_messages_and_the_worker_consumes_again(product: Product) -> None:
    await product.kill("rabbitmq")
    messages = await replies(product, 4)
    await drained(product, messages)
    await product.start("rabbitmq")
    await eventually(lambda: the_worker_handles(product), 60)


@FAULTS
async def test_a_purged_queue_loses_nothing(product: Product, rabbitmq: RabbitMQ) -> None:
    await product.stop("worker")
    messages = await replies(product, 4)
    with create_celery(rabbitmq.url, client="tests").connection_for_write() as connection:
        queue = connection.SimpleQueue(EVENTS_QUEUE, queue_args={"x-queue-type": "classic"})
        await eventually(lambda: queue.qsize() > 0)
        queue.clear()
    await product.start("worker")
    await drained(product, messages)


@FAULTS
async def test_while_it_lacks_memory_the_sweeper_does_the_work_and_status_says_so(
    product: Product, rabbitmq: RabbitMQ
) -> None:
    await rabbitmq.control("set_vm_memory_high_watermark", "0.00001")
    await drained(product, await replies(product, 4))
    assert await eventually(lambda: says(product, "broker unusable since"))
    await rabbitmq.control("set_vm_memory_high_watermark", "0.6")
    await eventually(lambda: the_worker_handles(product), 60)


async def says(product: Product, text: str) -> bool:
    return text in (await product.chats("status"))[1]
