"""The product with Debian's Redis as the broker, if the system has one. `make verify` runs many more tests on it."""

import shutil
from pathlib import Path

import pytest

from deploy.local import valkey
from deploy.local.processes import Spawn
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, running_product
from tests.system.test_faults import drained, replies, the_worker_handles

REDIS_SERVER = shutil.which("redis-server")

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="there is no Redis: apt install redis-server")


async def test_messages_become_emails_also_after_redis_was_killed(
    tmp_path: Path, fork: Spawn, mail_server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "_program", lambda: Path(str(REDIS_SERVER)))
    settings = {"CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}", "CHATS_EMAIL_DELAY_SECONDS": "1"}
    async with running_product(tmp_path, fork, **settings) as product:
        await product.start(*PROCESSES)
        await eventually(lambda: the_worker_handles(product), 60)
        await drained(product, await replies(product, 4))

        await product.kill("broker")
        messages = await replies(product, 4)
        await drained(product, messages)
        await product.start("broker")
        await eventually(lambda: the_worker_handles(product), 60)
