"""The mail catcher's form: a reply as of a usual mail program, through the real intake."""

from pathlib import Path

import httpx2
import pytest

from deploy.local.mailbox import Intake, Mailbox, make_app
from tests.service.inbound.rig import AUTHSERV, SUPPORT_ADDRESS, Rig


@pytest.fixture
async def catcher(rig: Rig, tmp_path: Path) -> httpx2.AsyncClient:
    mailbox = Mailbox(tmp_path)
    mailbox.keep((await rig.send_email("Which size?\nLarge or small?")).as_bytes())
    app = make_app(mailbox, Intake(f"lmtp://127.0.0.1:{rig.port}", AUTHSERV, SUPPORT_ADDRESS))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://mailbox.test")


async def test_a_reply_typed_in_the_catcher_is_posted_without_its_quote(rig: Rig, catcher: httpx2.AsyncClient) -> None:
    async with catcher:
        assert "<textarea" in (await catcher.get("/mails/1")).text
        answer = await catcher.post("/mails/1/reply", data={"body": "Large?\r\n\r\nYes, grosser."})
        assert answer.status_code == 303
        assert "250 2.0.0 OK" in (await catcher.get(answer.headers["location"])).text
    await rig.post()
    [message] = await rig.messages()
    assert message["body"] == "Large?\n\nYes, grosser."


async def test_an_email_written_in_the_catcher_opens_a_conversation(rig: Rig, catcher: httpx2.AsyncClient) -> None:
    async with catcher:
        assert SUPPORT_ADDRESS in (await catcher.get("/write")).text
        email = {"from": "Anna <anna@customer.test>", "subject": "Which colour?", "body": "Blue?\r\nOr green?"}
        answer = await catcher.post("/write", data=email)
        assert "250 2.0.0 OK" in (await catcher.get(answer.headers["location"])).text
        assert (await catcher.post("/write", data=email | {"from": "nobody"})).status_code == 400
    await rig.post()
    found = await rig.anna.get("/conversations")
    assert "Which colour?" in [conversation["subject"] for conversation in found["items"]]


async def test_another_sites_page_cannot_reply(rig: Rig, catcher: httpx2.AsyncClient) -> None:
    async with catcher:
        headers = {"Origin": "http://evil.test"}
        assert (await catcher.post("/mails/1/reply", data={"body": "x"}, headers=headers)).status_code == 403
        assert (await catcher.post("/mails/2/reply", data={"body": "x"})).status_code == 404
    assert await rig.rows() == []
