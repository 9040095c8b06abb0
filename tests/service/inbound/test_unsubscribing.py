"""Unsubscribing by email: the address in `List-Unsubscribe`, and what an email to it does."""

import re
from email.message import EmailMessage

import pytest
from sqlalchemy import select

from services.notifications.models import InboundEmail, Mute
from tests.service.inbound.rig import DOMAIN, Rig


def unsubscribe_address(email: EmailMessage) -> str:
    [address] = re.findall(r"<mailto:(leave\+[a-z2-7]{52}@in\.store\.test)\?subject=unsubscribe>", unfolded(email))
    return str(address)


def unfolded(email: EmailMessage) -> str:
    return str(email["List-Unsubscribe"])


async def mutes(rig: Rig) -> list[tuple[str, str]]:
    async with rig.sweeping.notifications() as session:
        return [(mute.user_id, str(mute.conversation_id)) for mute in await session.scalars(select(Mute))]


async def test_the_header_names_a_link_and_an_address(rig: Rig) -> None:
    email = await rig.send_email()
    assert unfolded(email).startswith("<https://store.test/api/v1/notifications/links/")
    assert unsubscribe_address(email).endswith(f"@{DOMAIN}")
    await rig.run("update emails set state = 'scheduled', lease_id = null, lease_until = null, next_attempt_at = now()")
    assert unfolded(await rig.claim()) == unfolded(email)


async def test_an_email_to_it_stops_emails_once_whatever_it_says_and_whoever_sends_it(rig: Rig) -> None:
    address = unsubscribe_address(await rig.send_email())
    bare = b"\r\n"
    by_another = rig.reply("Stop it!", to=address, **{"From": "x@else.test", "X-Auto-Response-Suppress": "All"})
    for content in (by_another, bare, by_another):
        assert await rig.deliver(content, address, sender="x@else.test") is None
    assert await mutes(rig) == [("anna", rig.conversation)]
    assert await rig.states() == [("ignored", "left")]
    async with rig.sweeping.notifications() as session:
        assert await session.scalar(select(InboundEmail.original)) is None
    assert await rig.post() == 0

    # It arrives again after she has written: her newer wish stands, until another email.
    await rig.anna.post(rig.conversation, "One more question")
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()
    assert await rig.deliver(by_another, address) is None
    assert await mutes(rig) == []
    assert await rig.deliver(bare, address.upper()) is None
    assert await mutes(rig) == [("anna", rig.conversation)]


async def test_an_email_to_it_during_a_merger_stops_the_persons_emails(rig: Rig) -> None:
    address = unsubscribe_address(await rig.send_email())
    await rig.run("insert into people (id, version) values ('ben', 1)")
    await rig.run("update people set deleted = true, merged_into = 'ben' where id = 'anna'")  # and nothing has moved
    assert await rig.deliver(rig.reply(), address) is None
    assert await mutes(rig) == [("ben", rig.conversation)]


async def test_an_email_to_both_addresses_is_a_reply_as_well(rig: Rig) -> None:
    email = await rig.send_email()
    reply = rig.reply("The large one. No more emails.")
    for address in (unsubscribe_address(email), rig.address):
        assert await rig.deliver(reply, address) is None
    assert await rig.states() == [("ignored", "left"), ("received", None)]


@pytest.mark.parametrize(
    ("headers", "sender"),
    [
        ({"Auto-Submitted": "auto-replied"}, "anna@customer.test"),
        ({"X-Autoreply": "yes"}, "anna@customer.test"),
        ({}, ""),
    ],
)
async def test_what_programs_answer_to_it_changes_nothing(rig: Rig, headers: dict[str, str], sender: str) -> None:
    address = unsubscribe_address(await rig.send_email())
    assert await rig.deliver(rig.reply(to=address, **headers), address, sender=sender) is None
    assert (await mutes(rig), await rig.rows()) == ([], [])


async def test_an_address_that_we_did_not_make_is_refused(rig: Rig) -> None:
    address = unsubscribe_address(await rig.send_email())
    forged = address.replace(address[40:50], "aaaaaaaaaa")
    refused = {forged: (550, b"5.1.1 There is no such address here")}
    assert await rig.deliver(rig.reply(), forged) == refused
    await rig.run("update emails set audience = 'support'")
    assert isinstance(await rig.deliver(rig.reply(), address), dict)


@pytest.mark.parametrize("deletion", ["marks set deleted_at = now()", "people set deleted = true where id = 'anna'"])
async def test_where_nothing_is_left_to_stop_nothing_is_kept(rig: Rig, deletion: str) -> None:
    address = unsubscribe_address(await rig.send_email())
    await rig.run(f"update {deletion}")
    assert await rig.deliver(rig.reply(), address) is None
    assert (await mutes(rig), await rig.rows()) == ([], [])
