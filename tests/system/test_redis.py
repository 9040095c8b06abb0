"""The product with Debian's Redis as the broker, if the system has one. `make verify` runs many more tests on it."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local import valkey
from deploy.local.processes import Spawn
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, Product, running_product
from tests.system.test_faults import drained, replies, the_worker_handles

REDIS_SERVER = shutil.which("redis-server")

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="there is no Redis: apt install redis-server")


@pytest.fixture(scope="module")
async def product(
    tmp_path_factory: pytest.TempPathFactory, mail_server: SmtpServer, fork: Spawn
) -> AsyncIterator[Product]:
    """The whole product, with Redis in the place of Valkey."""
    settings = {"CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}", "CHATS_EMAIL_DELAY_SECONDS": "1"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(valkey, "_program", lambda: Path(str(REDIS_SERVER)))
        async with running_product(tmp_path_factory.mktemp("product"), fork, **settings) as product:
            await product.start(*PROCESSES)
            yield product


async def test_messages_become_emails(product: Product) -> None:
    await eventually(lambda: the_worker_handles(product), 60)
    await drained(product, await replies(product, 4))


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="test_faults shows it with Valkey; set EVERY_CASE=1")
async def test_messages_become_emails_also_after_redis_was_killed(product: Product) -> None:
    await product.kill("broker")
    messages = await replies(product, 4)
    await drained(product, messages)
    await product.start("broker")
    await eventually(lambda: the_worker_handles(product), 60)
