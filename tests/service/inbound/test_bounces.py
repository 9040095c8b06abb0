"""What arrives at the envelope senders of our emails, in real LMTP dialogues."""

import re

import pytest

from tests.service.inbound.rig import DOMAIN, Rig


def tampered(address: str, position: int) -> str:
    """Return an address with another character in its token."""
    character = "a" if address[position] != "a" else "b"
    return f"{address[:position]}{character}{address[position + 1 :]}"


async def test_each_email_has_its_own_envelope_sender_the_same_at_each_attempt(rig: Rig) -> None:
    await rig.send_email()
    first = rig.bounces_to
    assert re.fullmatch(rf"bounce\+[a-z2-7]{{52}}@{DOMAIN}", first)
    assert first.partition("+")[2] != rig.address.partition("+")[2]
    await rig.run("update emails set state = 'scheduled', lease_id = null, lease_until = null, next_attempt_at = now()")
    await rig.claim()
    assert rig.bounces_to == first
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    await rig.send_email()
    assert rig.bounces_to != first


async def test_a_report_is_taken_from_the_null_sender_and_a_forged_or_expired_address_is_refused(rig: Rig) -> None:
    await rig.send_email()
    report = rig.reply("It did not work.", **{"Content-Type": ""})
    assert await rig.deliver(report, rig.bounces_to, sender="") is None
    assert await rig.deliver(report, rig.bounces_to.upper(), sender="") is None
    for position in (7, 25, 40, 55):
        forged = tampered(rig.bounces_to, position)
        assert await rig.deliver(report, forged, sender="") == {forged: (550, b"5.1.1 There is no such address here")}
    await rig.run("update emails set claimed_at = now() - interval '31 days', finished_at = null")
    refused = await rig.deliver(report, rig.bounces_to, sender="")
    assert refused == {rig.bounces_to: (550, b"5.1.6 This address has expired")}
    assert await rig.rows() == []


async def test_what_a_program_answers_is_dropped_and_a_person_is_told_that_nobody_reads_it(rig: Rig) -> None:
    await rig.send_email()
    away = rig.reply("I am away.", **{"Auto-Submitted": "auto-replied"})
    assert await rig.deliver(away, rig.bounces_to) is None
    answer = await rig.deliver(rig.reply("Hello?"), rig.bounces_to)
    assert answer == (550, b"5.1.6 Nobody reads this address. Answer to the address in Reply-To")
    assert await rig.rows() == []
    assert await rig.messages() == []


@pytest.mark.parametrize("name", ["reply", "leave", "bounce"])
async def test_the_token_of_one_kind_of_address_is_not_one_of_another(rig: Rig, name: str) -> None:
    await rig.send_email()
    token = rig.address.removeprefix("reply+")
    crossed = rig.bounces_to.replace("bounce", "reply") if name == "reply" else f"{name}+{token}"
    assert await rig.deliver(rig.reply(), crossed) == {crossed: (550, b"5.1.1 There is no such address here")}
