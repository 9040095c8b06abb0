"""The notice to the sender of a held email: to whom it goes, once a day, and to nobody who might not have written."""

import asyncio
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import SecretStr

from deploy.local.ports import free_ports
from services.notifications.delivery.notices import purge_notices, send_notices
from services.notifications.settings import EmailSettings
from tests.service.inbound.rig import SETTINGS, SUPPORT_ADDRESS, Rig, parsed, passed
from tests.service.inbound.test_admin_replies import SAM, asked
from tests.service.inbound.test_new_conversations import known

__all__ = ["asked", "known"]  # fixtures


class Sink:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self.emails: list[EmailMessage] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        self.emails.append(parsed(envelope.content))
        return "250 OK"


async def notices(rig: Rig, **changes: Any) -> list[EmailMessage]:
    """Send what is due; return it."""
    sink, [port] = Sink(), free_ports([0])
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(sink, hostname="mx.test"), "127.0.0.1", port)
    async with server:
        url = SecretStr(f"smtp://127.0.0.1:{port}")
        settings: EmailSettings = SETTINGS.model_copy(
            update={"smtp_url": url, "support_email": "inbox@store.test"} | changes
        )
        await send_notices(rig.sweeping.notifications, settings)
    return sink.emails


async def test_a_sender_is_told_once_a_day_where_to_write(known: Rig) -> None:
    await known.send_email()
    for number in range(2):
        reply = passed(known.reply(**{"From": "Anna <anna@work.test>", "Message-ID": f"<{number}@work.test>"}))
        await known.deliver(reply, sender="anna@work.test")
    [notice] = await notices(known)
    assert (notice["To"], notice["From"]) == ("anna@work.test", "Test Store <support@store.test>")
    assert (notice["Auto-Submitted"], notice["Precedence"]) == ("auto-replied", "bulk")
    assert notice["X-Auto-Response-Suppress"] == "All"
    assert str(notice["In-Reply-To"]) in {"<0@work.test>", "<1@work.test>"}
    text = notice.get_content()
    assert f"https://store.test/dashboard/messages/{known.conversation}/" in text
    assert "Which size" not in text
    assert "parcel" not in f"{text}{notice['Subject']}"
    assert await notices(known) == []
    await known.run("update held_notices set asked_at = asked_at - interval '1 day'")
    reply = passed(known.reply(**{"From": "Anna <anna@work.test>", "Message-ID": "<9@work.test>"}))
    await known.deliver(reply, sender="anna@work.test")
    assert len(await notices(known)) == 1


@pytest.mark.parametrize(
    ("headers", "signer", "sender", "told"),
    [
        ({}, "", "eve@other.test", True),
        ({}, None, "eve@other.test", False),  # anybody may have written this
        ({}, "evil.test", "eve@other.test", False),
        ({"Auto-Submitted": "auto-replied"}, "", "eve@other.test", False),
        ({}, "", "noreply@other.test", False),
        ({}, "", "postmaster@other.test", False),
        ({}, "", "abuse@other.test", False),
        ({}, "", "support@store.test", False),
        ({}, "", "inbox@store.test", False),
        ({}, "", "reply+x@in.store.test", False),
        ({}, "", "größe@other.test", False),
        ({"From": "shared@customer.test"}, "", "shared@customer.test", True),
        ({"From": "anna@customer.test"}, None, "anna@customer.test", False),
    ],
)
async def test_who_is_told(known: Rig, headers: dict[str, str], signer: str | None, sender: str, told: bool) -> None:
    email = known.new_email(signer=signer, **({"From": sender} | headers))
    await known.deliver(email, SUPPORT_ADDRESS, sender=sender if sender.isascii() else "eve@other.test")
    assert [str(notice["To"]) for notice in await notices(known)] == ([sender] if told else [])


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("without a mail server", {"smtp_url": None}),
        ("not on the list for staging", {"email_only_to": ("*@store.test",)}),
        ("paused", {}),
        ("posted meanwhile", {}),
        ("deleted meanwhile", {}),
    ],
)
async def test_when_nobody_is_told(known: Rig, reason: str, changes: dict[str, Any]) -> None:
    await known.deliver(known.new_email(From="eve@other.test"), SUPPORT_ADDRESS)
    if reason == "paused":
        await known.run("update gate set paused_at = now()")
    if reason == "posted meanwhile":
        await known.run("update inbound_emails set state = 'received'")
    if reason == "deleted meanwhile":
        await known.run(
            "insert into marks (conversation_id, deleted_at) select conversation_id, now() from inbound_emails"
        )
    assert await notices(known, **changes) == []


async def test_an_admin_is_told_of_a_reply_that_was_not_sent_on_in_their_language(asked: Rig) -> None:
    sam = {"email": "sam@store.test", "role": "admin", "locale": "de"}
    await asked.anna.api.put("/api/v1/store/users/sam", json=sam, headers=asked.shop_headers)
    await asked.sweeping.number()
    await asked.sweeping.catch_up_fully()
    await asked.deliver(passed(asked.reply("Yes.\n\n> Unknown", From=SAM)), sender="sam@store.test")
    await asked.post()
    assert await asked.states() == [("held", "uncertain-quote")]
    [notice] = await notices(asked)
    assert f"https://store.test/admin/dashboard/conversation/{asked.conversation}/" in notice.get_content()
    assert "Ihre Antwort wurde nicht weitergeleitet" in notice.get_content().replace("\n", " ")


async def test_too_many_emails_are_not_answered_and_addresses_are_forgotten(
    known: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.inbound.intake._CAPS", (1, 100, 20, 1000, 2**30))
    for number in range(3):
        await known.deliver(known.new_email(**{"Message-ID": f"<{number}@x>"}), SUPPORT_ADDRESS)
    assert await notices(known) == []
    await known.deliver(known.new_email(From="eve@other.test"), SUPPORT_ADDRESS)
    await known.run("update held_notices set asked_at = asked_at - interval '1 day'")
    await purge_notices(known.sweeping.notifications)
    assert await known.column("select mailbox from held_notices") == []
