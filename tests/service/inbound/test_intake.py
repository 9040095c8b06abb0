"""What the intake accepts, refuses, holds and ignores, in real LMTP dialogues."""

import asyncio
import re
import smtplib

import pytest
from sqlalchemy import select

from services.notifications.models import InboundEmail
from tests.service.helpers.callers import Caller
from tests.service.helpers.sweeping import Sweeper
from tests.service.inbound.rig import DOMAIN, Rig, running_rig


async def test_each_email_has_its_own_address_the_same_at_each_attempt(rig: Rig) -> None:
    first = await rig.send_email()
    assert re.fullmatch(rf"Test Store <reply\+[a-z2-7]{{52}}@{DOMAIN}>", str(first["Reply-To"]))
    assert "not read" not in first.get_body(["plain"]).get_content()  # type: ignore[union-attr]
    await rig.run("update emails set state = 'scheduled', lease_id = null, lease_until = null, next_attempt_at = now()")
    again = await rig.claim()
    assert again["Reply-To"] == first["Reply-To"]
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    assert (await rig.send_email())["Reply-To"] != first["Reply-To"]


async def test_an_accepted_email_is_a_row_and_an_email_that_arrives_again_is_the_same(rig: Rig) -> None:
    await rig.send_email()
    assert await rig.deliver(rig.reply()) is None
    assert await rig.deliver(rig.reply()) is None
    assert await rig.states() == [("received", None)]
    assert await rig.deliver(rig.reply(**{"Message-ID": ""})) is None
    assert await rig.deliver(rig.reply(**{"Message-ID": ""})) is None
    assert len(await rig.rows()) == 2
    assert rig.address.upper() != rig.address
    assert await rig.deliver(rig.reply(**{"Message-ID": "<3@x>"}), rig.address.upper()) is None


@pytest.mark.parametrize(
    "address",
    ["someone@elsewhere.test", f"support@{DOMAIN}", f"reply+abc@{DOMAIN}", f"reply+{'a' * 52}@{DOMAIN}", "reply+ä@x"],
)
async def test_an_address_that_is_not_ours_is_refused_in_the_dialogue(rig: Rig, address: str) -> None:
    def rcpt() -> tuple[int, bytes]:
        with smtplib.LMTP("127.0.0.1", rig.port, timeout=20) as server:
            server.ehlo_or_helo_if_needed()
            server.command_encoding = "utf-8"
            server.mail("anna@customer.test", ["SMTPUTF8"])
            return server.docmd("RCPT", f"TO:<{address}>")

    await rig.send_email()
    code, reply = await asyncio.to_thread(rcpt)
    assert (code, reply[:5]) == (550, b"5.1.1")
    assert await rig.rows() == []


async def test_a_token_with_another_secret_part_is_refused(rig: Rig) -> None:
    await rig.send_email()
    local, _, domain = rig.address.partition("@")
    forged = f"{local[:-1]}{'a' if local[-2] != 'a' else 'b'}@{domain}"
    forged = forged.replace(local[-10:-5], "aaaaa")
    refused = await rig.deliver(rig.reply(), forged)
    assert refused == {forged: (550, b"5.1.1 There is no such address here")}


async def test_a_deleted_conversation_and_a_deleted_user_are_refused_with_a_reason(rig: Rig) -> None:
    await rig.send_email()
    await rig.run("update marks set deleted_at = now()")
    refused = await rig.deliver(rig.reply())
    assert isinstance(refused, dict)
    assert b"https://store.test/dashboard/messages/new/" in refused[rig.address][1]
    await rig.run("update marks set deleted_at = null")
    await rig.run("update people set deleted = true")
    refused = await rig.deliver(rig.reply())
    assert isinstance(refused, dict)
    assert refused[rig.address][1].startswith(b"5.1.6")


async def test_an_expired_address_holds_its_own_recipient_and_refuses_others(rig: Rig) -> None:
    await rig.send_email()
    await rig.run("update reply_addresses set expires_at = now() - interval '1 second'")
    assert isinstance(await rig.deliver(rig.reply(), sender="eve@other.test"), dict)
    assert await rig.deliver(rig.reply()) is None
    assert await rig.states() == [("held", "expired")]
    passed = {"Authentication-Results": "mx.store.test; dmarc=pass", "Message-ID": "<2@x>"}
    assert await rig.deliver(rig.reply(**passed)) is None
    assert (await rig.states())[1] == ("received", None)


async def replies_for_two(rig: Rig, content: bytes) -> list[bytes]:
    """Deliver to the addresses of two conversations at once, without naming the size first; return the answers."""
    await rig.send_email()
    first = rig.address
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    rig.conversation = ""
    await rig.send_email()

    def dialogue() -> list[bytes]:
        with smtplib.LMTP("127.0.0.1", rig.port, timeout=20) as server:
            server.ehlo_or_helo_if_needed()
            server.mail("anna@customer.test")
            for address in (first, rig.address):
                assert server.rcpt(address)[0] == 250
            server.putcmd("data")
            assert server.getreply()[0] == 354
            server.send(content + b"\r\n.\r\n")
            replies = [server.getreply() for _ in range(2)]
            assert server.noop()[0] == 250
            return [b"%d %s" % reply for reply in replies]

    return await asyncio.to_thread(dialogue)


async def test_lmtp_answers_for_each_recipient(rig: Rig) -> None:
    content = b"From: anna@customer.test\r\nMessage-ID: <1@x>\r\n\r\nText"
    assert all(reply.startswith(b"250 2.0.0 OK") for reply in await replies_for_two(rig, content))
    assert len({row.conversation_id for row in await rig.rows()}) == 2


async def test_an_email_that_is_too_large_is_refused_for_each_recipient(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.inbound.server.MAX_BYTES", 5000)
    replies = await replies_for_two(rig, b"x" * 900 + b"\r\n" * 6000)
    assert [reply[:3] for reply in replies] == [b"552", b"552"]
    assert await rig.rows() == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"a\r\n..b\r\n...\r\nc\n.\nd\r\n.\r\n", b"a\r\n.b\r\n..\r\nc\n.\nd\r\n"),
        (b"x" * 200_000 + b"\r\n" + b"y\r\n" * 60_000 + b".\r\n", None),
    ],
)
async def test_the_bytes_of_an_email_are_kept_as_they_came(rig: Rig, sent: bytes, kept: bytes | None) -> None:
    await rig.send_email()

    def dialogue() -> tuple[int, int]:
        with smtplib.LMTP("127.0.0.1", rig.port, timeout=20) as server:
            server.ehlo_or_helo_if_needed()
            server.mail("anna@customer.test")
            server.rcpt(rig.address)
            server.putcmd("data")
            assert server.getreply()[0] == 354
            server.send(sent)
            return server.getreply()[0], server.noop()[0]

    assert await asyncio.to_thread(dialogue) == (250, 250)
    async with rig.sweeping.notifications() as session:
        original = await session.scalar(select(InboundEmail.original))
    assert original == (sent[:-3] if kept is None else kept)


async def test_without_the_database_the_senders_server_is_asked_to_try_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise OSError

    await rig.send_email()
    with monkeypatch.context() as patch:
        patch.setattr("services.notifications.inbound.intake.Intake.take_in", away)
        assert (await rig.deliver(rig.reply()))[0] == 451  # type: ignore[index]
    with monkeypatch.context() as patch:
        patch.setattr("services.notifications.inbound.reception.find_bound", away)
        refused = await rig.deliver(rig.reply())
    assert isinstance(refused, dict)
    assert refused[rig.address][0] == 451


@pytest.mark.parametrize(
    ("headers", "sender", "state", "reason"),
    [
        ({"Auto-Submitted": "auto-replied (vacation)"}, "anna@customer.test", "ignored", "automatic"),
        ({"Auto-Submitted": "(really) No (a person)"}, "anna@customer.test", "received", None),
        ({"Precedence": "bulk"}, "anna@customer.test", "ignored", "automatic"),
        ({"List-Id": "<list.example>"}, "anna@customer.test", "ignored", "automatic"),
        ({"X-Auto-Response-Suppress": "All"}, "anna@customer.test", "ignored", "automatic"),
        ({"X-Autoreply": "yes"}, "anna@customer.test", "ignored", "automatic"),
        ({}, "", "ignored", "delivery-report"),
        ({"From": "MAILER-DAEMON@customer.test"}, "anna@customer.test", "ignored", "system-sender"),
        ({"From": "Eve <eve@other.test>"}, "anna@customer.test", "held", "other-sender"),
        ({"From": "anna@customer.test, eve@other.test"}, "anna@customer.test", "held", "other-sender"),
        ({"From": "ANNA@Customer.Test"}, "anna+x@customer.test", "received", None),
        ({"From": "not an address"}, "anna@customer.test", "held", "other-sender"),
        (
            {"Authentication-Results": "mx.store.test; dmarc=fail header.from=customer.test"},
            "anna@customer.test",
            "held",
            "not-authenticated",
        ),
        ({"Authentication-Results": "mx.other.test; dmarc=fail"}, "anna@customer.test", "received", None),
    ],
)
async def test_what_no_person_wrote_is_ignored_and_what_another_wrote_is_held(
    rig: Rig, headers: dict[str, str], sender: str, state: str, reason: str | None
) -> None:
    await rig.send_email()
    assert await rig.deliver(rig.reply(**headers), sender=sender) is None
    assert await rig.states() == [(state, reason)]
    assert await rig.post() == (state == "received")


async def test_two_programs_that_answer_each_other_are_held_after_twenty_an_hour(rig: Rig) -> None:
    await rig.send_email()
    for number in range(22):
        await rig.deliver(rig.reply(**{"Message-ID": f"<{number}@x>"}))
    assert await rig.states() == [("received", None)] * 20 + [("held", "too-many")] * 2


async def test_smtp_has_one_answer(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    async with running_rig(sweeping, anna, sam, is_lmtp=False) as rig:
        await rig.send_email()
        assert await rig.deliver(rig.reply()) is None
        assert await rig.states() == [("received", None)]


async def test_connections_and_recipients_are_limited(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.send_email()

    def rcpt_until_refused() -> int:
        with smtplib.LMTP("127.0.0.1", rig.port, timeout=20) as server:
            server.ehlo_or_helo_if_needed()
            server.mail("anna@customer.test")
            return next(number for number in range(100) if server.rcpt(rig.address)[0] == 452)

    assert await asyncio.to_thread(rcpt_until_refused) == 20
    monkeypatch.setattr("services.notifications.inbound.server.MAX_CONNECTIONS", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    assert (await reader.readline()).startswith(b"421 ")
    writer.close()


@pytest.mark.parametrize(
    "senders",
    [
        ["anna@customer.test", "eve@other.test"],
        ["eve@other.test", "anna@customer.test"],
        ["anna@customer.test, Eve <eve@other.test>"],
        [f"anna@customer.test{' ' * 5000}, eve@other.test"],
    ],
)
async def test_an_email_that_names_two_senders_is_held(rig: Rig, senders: list[str]) -> None:
    await rig.send_email()
    lines = ["Message-ID: <1@x>", "Authentication-Results: mx.store.test; dmarc=pass header.from=other.test"]
    head = "".join(f"{line}\r\n" for line in [*lines, *(f"From: {sender}" for sender in senders)])
    assert await rig.deliver(f"{head}\r\nText\r\n".encode()) is None
    assert await rig.states() == [("held", "other-sender")]


async def test_a_name_with_a_comma_and_without_quotes_is_one_sender(rig: Rig) -> None:
    await rig.send_email()
    assert await rig.deliver(b"From: Doe, Anna <anna@customer.test>\r\n\r\nText\r\n") is None
    assert await rig.states() == [("received", None)]


@pytest.mark.parametrize("message_id", [b"<1\x00@x>", b"=?us-ascii?q?=00?="])
async def test_an_email_with_an_unusable_id_is_taken_in_once(rig: Rig, message_id: bytes) -> None:
    await rig.send_email()
    content = b"From: anna@customer.test\r\nMessage-ID: " + message_id + b"\r\n\r\nText\r\n"
    assert [await rig.deliver(content) for _ in range(2)] == [None, None]
    assert await rig.states() == [("received", None)]


async def deliver_around(rig: Rig, *statements: str) -> int:
    """Deliver a reply whose recipient is accepted before these statements; return the reply's code."""

    def begin() -> smtplib.LMTP:
        server = smtplib.LMTP("127.0.0.1", rig.port, timeout=20)
        server.ehlo_or_helo_if_needed()
        server.mail("anna@customer.test")
        assert server.rcpt(rig.address)[0] == 250
        return server

    server = await asyncio.to_thread(begin)
    for statement in statements:
        await rig.run(statement)
    code, _ = await asyncio.to_thread(server.data, rig.reply().as_bytes())
    server.close()
    return code


@pytest.mark.parametrize("deletion", ["marks set deleted_at = now()", "people set deleted = true where id = 'anna'"])
async def test_an_email_whose_conversation_or_customer_is_deleted_during_its_transfer_is_refused(
    rig: Rig, deletion: str
) -> None:
    await rig.send_email()
    assert (await deliver_around(rig, f"update {deletion}"), await rig.rows()) == (550, [])


async def test_an_email_whose_customer_is_merged_during_its_transfer_is_the_persons(rig: Rig) -> None:
    await rig.send_email()
    person = "insert into people (id, version) values ('ben', 1)"
    merger = "update people set deleted = true, merged_into = 'ben' where id = 'anna'"
    assert await deliver_around(rig, person, merger) == 250
    assert [(row.state, row.user_id) for row in await rig.rows()] == [("received", "ben")]
