"""A customer's reply travels through real mail servers, and the conversation shows what was written."""

import asyncio
import smtplib
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.real_mail.helpers import mutt
from tests.real_mail.helpers.town import Servers, Town
from tests.service.inbound.rig import DOMAIN, SENDER

ports = pytest.mark.parametrize("server", ["postfix", "exim"])


def port_of(servers: Servers, server: str) -> int:
    return servers.postfix.mx if server == "postfix" else servers.exim.mx


@ports
async def test_a_reply_is_delivered_and_a_forged_address_refused_in_the_dialogue(town: Town, server: str) -> None:
    await town.ask()

    def dialogue() -> tuple[int, int, int]:
        with smtplib.SMTP("127.0.0.1", port_of(town.servers, server), timeout=60) as connection:
            connection.ehlo()
            connection.mail(SENDER)
            forged, _ = connection.rcpt(f"reply+{'a' * 52}@{DOMAIN}")
            good, _ = connection.rcpt(town.rig.address)
            code, _ = connection.data(town.rig.reply("Über einen Server").as_bytes())
            return forged, good, code

    assert await asyncio.to_thread(dialogue) == (550, 250, 250)
    await town.arrived(("received", None))
    assert await town.thread() == ["Über einen Server"]


@ports
async def test_a_reply_typed_in_mutt_is_a_message_without_its_quote(town: Town, server: str, tmp_path: Path) -> None:
    await town.ask("Which size do you need?\n\nAnd which colour, please?")
    dovecot, text = town.servers.dovecot, "The large one.\nIn grün, bitte."
    await asyncio.to_thread(mutt.answer, tmp_path / "mutt", SENDER, dovecot.imap, port_of(town.servers, server), text)
    await town.arrived(("received", None))
    [original] = await town.originals()
    assert original is not None
    assert b"> Which size do you need?" in original
    assert await town.thread() == [text]


@ports
async def test_an_html_reply_is_a_message_without_its_quote(town: Town, server: str) -> None:
    email = await town.ask()
    quoted = email.get_body(["html"])
    assert quoted is not None
    reply = town.rig.reply("")
    reply.set_content("Siehe HTML")
    reply.add_alternative(
        f'<p>Die <b>große</b>, bitte.</p><blockquote type="cite">{quoted.get_content()}</blockquote>', subtype="html"
    )
    await asyncio.to_thread(hand_over, town, reply, port_of(town.servers, server))
    await town.arrived(("received", None))
    assert await town.thread() == ["Die große, bitte."]


def hand_over(town: Town, message: EmailMessage, port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as connection:
        connection.sendmail(SENDER, town.rig.address, message.as_bytes())
