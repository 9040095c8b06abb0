"""A product of real processes, shared by the tests of a file. Every test leaves all of it running."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.processes import Spawn
from tests.helpers.smtp_server import SmtpServer, smtp_server
from tests.system.helpers.product import PROCESSES, Product, running_product


@pytest.fixture(scope="module")
async def mail_server() -> AsyncIterator[SmtpServer]:
    """A mail server with a script."""
    async with smtp_server() as server:
        yield server


@pytest.fixture(scope="module")
async def product(
    tmp_path_factory: pytest.TempPathFactory, fork: Spawn, mail_server: SmtpServer
) -> AsyncIterator[Product]:
    """The whole product; emails are due after a second and retried after one."""
    settings = {
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "CHATS_EMAIL_DELAY_SECONDS": "1",
        "CHATS_EMAIL_RETRY_SECONDS": "1,1,1",
        "CHATS_EMAIL_UNCERTAIN_SECONDS": "2",
    }
    async with running_product(tmp_path_factory.mktemp("product"), fork, **settings) as product:
        await product.start(*PROCESSES)
        yield product
