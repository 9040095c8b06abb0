"""A customer's reply travels through real mail servers, and the conversation shows what was written."""

import asyncio
import os
import smtplib
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.real_mail.helpers import mutt
from tests.real_mail.helpers.town import Servers, Town
from tests.service.inbound.rig import DOMAIN, SENDER, SUPPORT_ADDRESS, passed
from tests.service.inbound.test_new_conversations import learn

SERVERS = ["postfix", "exim"]
on_both = pytest.mark.parametrize("server", SERVERS)


def on(server: str) -> pytest.MarkDecorator:
    """Run a test with one of the servers; with `EVERY_CASE=1` with both."""
    return pytest.mark.parametrize("server", SERVERS if os.environ.get("EVERY_CASE") else [server])


def port_of(servers: Servers, server: str) -> int:
    return servers.postfix.mx if server == "postfix" else servers.exim.mx


@on_both
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


@on("postfix")
async def test_a_reply_typed_in_mutt_is_a_message_without_its_quote(town: Town, server: str, tmp_path: Path) -> None:
    await town.ask("Which size do you need?\n\nAnd which colour, please?")
    dovecot, text = town.servers.dovecot, "The large one.\nIn grün, bitte."
    await asyncio.to_thread(mutt.answer, tmp_path / "mutt", SENDER, dovecot.imap, port_of(town.servers, server), text)
    await town.arrived(("received", None))
    [original] = await town.originals()
    assert original is not None
    assert b"> Which size do you need?" in original
    assert await town.thread() == [text]


@on("exim")
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


@on("exim")
async def test_an_email_to_the_support_address_opens_a_conversation(town: Town, server: str) -> None:
    await town.move_to("anna")
    await learn(town.rig)
    email, port = town.rig.new_email("In Blau, bitte."), port_of(town.servers, server)
    await asyncio.to_thread(hand_over, town, email, port, to=SUPPORT_ADDRESS)
    await town.arrived(("received", None))
    await town.rig.post()
    [conversation] = (await town.rig.anna.get("/conversations"))["items"]
    assert (conversation["subject"], conversation["last_message"]["preview"]) == ("Which colour?", "In Blau, bitte.")


@on("postfix")
async def test_an_admins_reply_from_the_support_inbox_is_their_answer(town: Town, server: str) -> None:
    rig, sam = town.rig, {"email": "sam@store.test", "role": "admin", "name": "Sam"}
    await rig.anna.api.put("/api/v1/store/users/sam", json=sam, headers=rig.shop_headers)
    rig.conversation = (await rig.anna.open(body="Do you have it in blue, too?"))["id"]
    rig.sweeping.settings = rig.sweeping.settings.model_copy(update={"support_email": "store@customer.test"})
    rig.sent.append(await town.arriving("store"))
    answer = passed(rig.reply("Yes, we do.", From="Sam <sam@store.test>"))
    await asyncio.to_thread(hand_over, town, answer, port_of(town.servers, server))
    await town.arrived(("received", None))
    await rig.post()
    messages = (await rig.anna.get(f"/conversations/{rig.conversation}/messages"))["items"]
    assert [(message["sender"]["role"], message["body"]) for message in messages][1:] == [("admin", "Yes, we do.")]


def hand_over(town: Town, message: EmailMessage, port: int, to: str | None = None) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as connection:
        connection.sendmail(SENDER, to or town.rig.address, message.as_bytes())
