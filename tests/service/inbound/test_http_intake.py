"""Emails that providers deliver by HTTP: who may, in which forms, and what the answers say."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any
from unittest.mock import patch
from urllib.parse import urlencode

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from services.notifications.api.routes import inbound_mime
from services.notifications.app import create_app
from services.notifications.models import InboundEmail
from services.notifications.settings import ApiSettings
from tests.service.conftest import INBOUND_SECRET, SECRET
from tests.service.inbound.rig import DOMAIN, SENDER, SUPPORT_ADDRESS, Rig

NO_SENDER: dict[str, Any] = {"from": ""}
PATH = inbound_mime.MIME
PROVIDER = "Prov1der secret"
BEARER = {"Authorization": f"Bearer {PROVIDER}"}
RAW = BEARER | {"Content-Type": "message/rfc822"}


@pytest.fixture
async def door(rig: Rig, databases: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    await rig.send_email()
    app = create_app(
        ApiSettings(
            notifications_database_url=databases["notifications"],
            auth_secret=[SECRET],
            inbound_domain=DOMAIN,
            inbound_address=SUPPORT_ADDRESS,
            inbound_secret=SecretStr(INBOUND_SECRET),
            inbound_http_secret=SecretStr(PROVIDER),
        )
    )
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def deliver(door: httpx2.AsyncClient, content: bytes, headers: Mapping[str, str] = RAW, **params: Any) -> Any:
    answer = await door.post(PATH, content=content, headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["emails"]


def multipart(fields: dict[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields.items()
    ]
    return b"".join(parts) + end


async def originals(rig: Rig) -> list[bytes | None]:
    async with rig.sweeping.notifications() as session:
        return list(await session.scalars(select(InboundEmail.original).order_by(InboundEmail.id)))


async def test_each_form_of_providers_takes_the_same_email_in_once(door: httpx2.AsyncClient, rig: Rig) -> None:
    email = rig.reply("Grüße: 100 % & more+.").as_bytes()
    [first] = await deliver(door, email)
    assert (first["state"], first["again"]) == ("received", False)
    same = first | {"again": True}
    basic = {"Authorization": "Basic " + b64encode(f"any:{PROVIDER}".encode()).decode()}
    assert await deliver(door, email, basic | {"Content-Type": "message/rfc822"}) == [same]
    form = BEARER | {"Content-Type": "multipart/form-data; boundary=x"}
    mailgun = {"recipient": rig.address.encode(), "sender": SENDER.encode(), "body-mime": email, "token": b"abc"}
    assert await deliver(door, multipart(mailgun), form) == [same]
    envelope = json.dumps({"to": [rig.address], "from": SENDER}).encode()
    assert await deliver(door, multipart({"email": email, "envelope": envelope, "dkim": b"none"}), form) == [same]
    urlencoded = BEARER | {"Content-Type": "application/x-www-form-urlencoded"}
    assert await deliver(door, urlencode(mailgun).encode(), urlencoded) == [same]
    postmark = json.dumps({"RawEmail": email.decode(), "OriginalRecipient": rig.address, "Subject": "Re"}).encode()
    assert await deliver(door, postmark, BEARER | {"Content-Type": "application/json"}) == [same]
    assert await originals(rig) == [email]
    await rig.post()
    assert [message["body"] for message in await rig.messages()] == ["Grüße: 100 % & more+."]


async def test_bytes_of_any_charset_pass_through_forms_unchanged(door: httpx2.AsyncClient, rig: Rig) -> None:
    head = f"From: {SENDER}\r\nContent-Type: text/plain; charset=iso-8859-1\r\nMessage-ID: <%d@x>\r\n\r\n"
    for number, kind in enumerate(("multipart/form-data; boundary=x", "application/x-www-form-urlencoded")):
        email = (head % number).encode() + bytes(range(1, 256)) * 2000 + b"%4"
        fields = {"body-mime": email, "recipient": rig.address.encode()}
        body = multipart(fields) if "x-www" not in kind else urlencode(fields).encode()
        await deliver(door, body, BEARER | {"Content-Type": kind})
        assert (await originals(rig))[-1] == email


@pytest.mark.parametrize(
    "authorization",
    ["", f"Bearer {PROVIDER}x", PROVIDER, f"Digest {PROVIDER}", "Basic ###", "Basic " + b64encode(b"any:").decode()],
)
async def test_nobody_without_the_secret_is_listened_to(door: httpx2.AsyncClient, rig: Rig, authorization: str) -> None:
    asked = []

    async def body() -> AsyncIterator[bytes]:
        asked.append(True)
        yield b"x" * 1000

    answer = await door.post(PATH, content=body(), headers=RAW | {"Authorization": authorization})
    assert (answer.status_code, asked) == (401, [])
    assert await rig.rows() == []


async def test_recipients_are_those_that_the_url_or_the_headers_name(door: httpx2.AsyncClient, rig: Rig) -> None:
    first = rig.address
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    rig.conversation = ""
    await rig.send_email()
    both = rig.reply(to=f"{first}, Shop <{rig.address.upper()}>, eve@other.test").as_bytes()
    assert len(await deliver(door, both)) == 2
    delivered = b"Delivered-To: %s\r\n" % first.encode() + both.replace(b"<1@", b"<2@")
    assert len(await deliver(door, delivered)) == 1
    named = both.replace(b"<1@", b"<3@")
    assert len(await deliver(door, named, to=[rig.address, "eve@other.test"])) == 1
    assert {row.same_as[:3] for row in await rig.rows()} == {"<1@", "<2@", "<3@"}
    hidden = rig.reply(to=f'"{rig.address}x" <someone@{DOMAIN}>').as_bytes()
    assert (await door.post(PATH, content=hidden, headers=RAW)).status_code == 406


async def test_the_address_for_new_conversations_counts_in_headers_without_another_of_ours(
    door: httpx2.AsyncClient, rig: Rig
) -> None:
    email = rig.new_email(To=f"Shop <{SUPPORT_ADDRESS.upper()}>, eve@other.test").as_bytes()
    [taken] = await deliver(door, email)
    assert taken["state"] != "refused"
    both = rig.reply(to=f"{SUPPORT_ADDRESS}, {rig.address}").as_bytes()
    [reply] = await deliver(door, both)
    assert [(str(row.id), row.kind) for row in await rig.rows()] == [
        (taken["id"], "conversation"),
        (reply["id"], "message"),
    ]
    longer = rig.new_email(To=f"x{SUPPORT_ADDRESS}, {SUPPORT_ADDRESS}.other.test").as_bytes()
    assert (await door.post(PATH, content=longer, headers=RAW)).status_code == 406


async def test_the_senders_envelope_decides_what_a_delivery_report_is(door: httpx2.AsyncClient, rig: Rig) -> None:
    [taken] = await deliver(door, rig.reply().as_bytes(), **NO_SENDER)
    assert (taken["state"], taken["reason"]) == ("ignored", "delivery-report")
    report = b"Return-Path: <>\r\n" + rig.reply(**{"Message-ID": "<2@x>"}).as_bytes()
    assert (await deliver(door, report))[0]["reason"] == "delivery-report"


async def test_an_email_that_no_recipient_takes_is_refused_for_good(door: httpx2.AsyncClient, rig: Rig) -> None:
    forged = rig.reply(to=f"reply+{'a' * 52}@{DOMAIN}").as_bytes()
    answer = await door.post(PATH, content=forged, headers=RAW)
    assert (answer.status_code, answer.json()["code"]) == (406, "inbound-refused")
    assert answer.json()["reason"] == "unknown-address"
    await rig.run("update marks set deleted_at = now()")
    answer = await door.post(PATH, content=rig.reply().as_bytes(), headers=RAW)
    assert (answer.status_code, answer.json()["reason"]) == (406, "conversation-deleted")
    assert "Start a new one" in answer.json()["detail"]
    assert await rig.rows() == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("message/rfc822", b" \r\n"),
        ("application/json", b"[]"),
        ("application/json", b'{"RawEmail": 1}'),
        ("application/json", b"\xff"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"x"),
        ("multipart/form-data; boundary=x", multipart({"email": b"From: a"}, b"")),
        ("multipart/form-data; boundary=" + "x" * 300, b""),
        ("multipart/form-data; boundary=x", multipart({str(number): b"" for number in range(300)})),
        ("application/x-www-form-urlencoded", b"subject=Hello"),
        ("application/x-www-form-urlencoded", b"&" * 1000),
    ],
)
async def test_a_request_without_an_email_says_what_to_send(door: httpx2.AsyncClient, kind: str, body: bytes) -> None:
    answer = await door.post(PATH, content=body, headers=BEARER | {"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")


async def test_an_email_over_the_limit_is_refused_before_it_is_read(door: httpx2.AsyncClient, rig: Rig) -> None:
    with patch("services.notifications.api.mime_bodies.MAX_BYTES", 1000):
        large = rig.reply("x" * 1000).as_bytes()
        assert (await door.post(PATH, content=large, headers=RAW)).status_code == 413
        form = {"email": large, "envelope": json.dumps({"to": [rig.address]}).encode()}
        headers = BEARER | {"Content-Type": "multipart/form-data; boundary=x"}
        assert (await door.post(PATH, content=multipart(form), headers=headers)).status_code == 413
    assert await rig.rows() == []


async def test_emails_that_do_not_fit_into_memory_come_again(door: httpx2.AsyncClient, rig: Rig) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    content = rig.reply().as_bytes()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:100]
        begun.set()
        await finish.wait()
        yield content[100:]

    app: Any = door._transport  # noqa: SLF001 - to make its room small
    app.app.state.request_memory._left = 40 * 2**20  # noqa: SLF001 - as above
    first = asyncio.create_task(door.post(PATH, content=slow(), headers=RAW))
    await begun.wait()
    refused = await door.post(PATH, content=content, headers=RAW)
    finish.set()
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert (await first).status_code == 200
    assert (await door.post(PATH, content=content, headers=RAW)).status_code == 200


async def test_nothing_is_acknowledged_while_the_database_is_away(door: httpx2.AsyncClient, rig: Rig) -> None:
    async def away(*_: object) -> None:
        raise TimeoutError

    with patch("services.notifications.inbound.intake.Intake.take_in", away):
        answer = await door.post(PATH, content=rig.reply().as_bytes(), headers=RAW)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert await rig.rows() == []
