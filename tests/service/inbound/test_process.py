"""The process `chats inbound` with a mailbox and without a listener."""

import asyncio

import pytest
from pydantic import SecretStr

from deploy.local.ports import free_ports
from services.notifications.inbound_process import run_inbound
from services.notifications.settings import InboundSettings
from tests.helpers.imap_server import scripted
from tests.helpers.waiting import eventually
from tests.service.conftest import INBOUND_SECRET
from tests.service.inbound.rig import DOMAIN


@pytest.mark.usefixtures("notifications")
async def test_it_reads_a_mailbox_without_a_listener_and_ends_when_it_is_asked_to(
    databases: dict[str, str],
) -> None:
    answers = {"IDLE": "+ idling\r\n", "DONE": "{tag} OK\r\n"}
    async with scripted(answers) as (port, got):
        settings = InboundSettings(
            notifications_database_url=databases["notifications"],
            inbound_domain=DOMAIN,
            inbound_secret=SecretStr(INBOUND_SECRET),
            inbound_listen="off",
            inbound_imap_url=SecretStr(f"imap://u:secret@127.0.0.1:{port}"),
        )
        stop, [own] = asyncio.Event(), free_ports([0])
        process = asyncio.create_task(run_inbound(settings, "127.0.0.1", own, stop))
        await eventually(lambda: "IDLE" in got)
        stop.set()
        async with asyncio.timeout(20):
            await process
    assert got[-2:] == ["DONE", "LOGOUT"]
    assert 'STATUS "Customer Chats" (UIDVALIDITY)' in got
