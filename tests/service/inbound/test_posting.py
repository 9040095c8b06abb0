"""From an accepted email to the message in its conversation: once, in order, with files; crashes and outages."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, text

from services.notifications.models import InboundEmail
from shared.process import failpoints
from tests.service.inbound.rig import Rig


class Killed(BaseException):
    """The process died at a failpoint."""


@contextmanager
def killed_at(name: str) -> Iterator[None]:
    """Kill the process at a failpoint."""

    def reach(reached: str) -> None:
        if reached == name:
            raise Killed

    failpoints.armed = reach
    try:
        yield
    finally:
        failpoints.armed = None


def quoted(email: EmailMessage) -> str:
    """Quote an email as a mail program does."""
    body = email.get_body(["plain"])
    assert body is not None
    lines = "\n".join(f"> {line}".rstrip() for line in body.get_content().split("\n"))
    return f"On Mon, Nov 23, 2026 at 10:12 AM Test Store <support@localhost> wrote:\n\n{lines}"


def with_files(message: EmailMessage, *names: str) -> EmailMessage:
    for name in names:
        message.add_attachment(f"content of {name}".encode(), maintype="application", subtype="pdf", filename=name)
    return message


async def test_a_reply_becomes_the_customers_message_without_the_quote(rig: Rig) -> None:
    email = await rig.send_email()
    await rig.sam.edit(rig.conversation, status="CLOSED")
    await rig.deliver(with_files(rig.reply(f"The large one.\n\n{quoted(email)}"), "a.pdf", "b.pdf"))
    assert await rig.post() == 1
    [message] = await rig.messages()
    assert (message["body"], message["via"], message["sender"]["id"]) == ("The large one.", "email", "anna")
    assert [file["name"] for file in message["attachments"]] == ["a.pdf", "b.pdf"]
    conversation = await rig.sam.get(f"/conversations/{rig.conversation}", peek="true")
    assert (conversation["status"], conversation["is_read_by_user"]) == ("AWAITING_ADMIN", True)
    [row] = await rig.rows()
    assert (row.state, row.message_number, str(row.message_id)) == ("posted", 3, message["id"])


async def test_reading_goes_as_far_as_the_email_that_is_answered(rig: Rig) -> None:
    await rig.send_email("First")
    await rig.sam.post(rig.conversation, "Second, in another email")
    await rig.deliver(rig.reply())
    await rig.post()
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()
    [mark] = await _column(rig, "select read_by_user_number from marks")
    assert mark == 2
    assert await _column(rig, "select number from notifications where read_at is null") == [3]


async def test_replies_are_posted_in_the_order_of_their_arrival(rig: Rig) -> None:
    await rig.send_email()
    for number in range(5):
        await rig.deliver(rig.reply(f"Line {number}", **{"Message-ID": f"<{number}@x>"}))
    while await rig.post():
        pass
    assert [message["body"] for message in await rig.messages()] == [f"Line {number}" for number in range(5)]


@pytest.mark.parametrize("where", ["inbound-claimed", "inbound-file-sent", "inbound-posted", "inbound-recorded"])
async def test_killed_anywhere_a_reply_is_posted_once(rig: Rig, where: str) -> None:
    await rig.send_email()
    await rig.deliver(with_files(rig.reply(), "a.pdf"))
    with killed_at(where), pytest.raises(Killed):
        await rig.post()
    await rig.run("update inbound_emails set lease_until = now() - interval '1 second' where lease_until is not null")
    while await rig.post():
        pass
    [message] = await rig.messages()
    assert [file["name"] for file in message["attachments"]] == ["a.pdf"]
    assert await rig.states() == [("posted", None)]


@pytest.mark.parametrize("where", ["inbound-read", "inbound-committed"])
async def test_killed_in_the_dialogue_the_email_comes_again_and_is_one_row(rig: Rig, where: str) -> None:
    await rig.send_email()

    def fail(reached: str) -> None:  # the connection ends as if the process had died
        if reached == where:
            raise OSError

    failpoints.armed = fail
    try:
        assert (await rig.deliver(rig.reply()))[0] == 451  # type: ignore[index]
    finally:
        failpoints.armed = None
    assert await rig.deliver(rig.reply()) is None
    assert await rig.states() == [("received", None)]


async def test_an_outage_of_conversations_costs_nothing_however_long_it_lasts(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply())
    working, refusing = rig.client, httpx2.AsyncClient(base_url="http://127.0.0.1:1")
    rig.client = refusing
    for _ in range(3):
        assert await rig.post() == 1
        await rig.run("update inbound_emails set next_attempt_at = now(), received_at = now() - interval '2 hours'")
    rig.client = working
    await rig.post()
    assert await rig.states() == [("posted", None)]
    await refusing.aclose()


async def test_an_email_that_cannot_be_posted_is_held_after_15_minutes_and_the_next_one_goes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply("Poison"))
    await rig.deliver(rig.reply("Next", **{"Message-ID": "<2@x>"}))
    post = rig.client.post

    async def failing(path: str, **request: Any) -> httpx2.Response:
        poison = request.get("json", {}).get("body") == "Poison"
        return httpx2.Response(500) if poison else await post(path, **request)

    monkeypatch.setattr(rig.client, "post", failing)
    assert await rig.post() == 1
    assert await rig.post() == 0, "the line waits"
    await rig.run(
        "update inbound_emails set next_attempt_at = now(), failing_since = failing_since - interval '16 minutes'"
    )
    await rig.post()
    await rig.post()
    assert await rig.states() == [("held", "not-accepted"), ("posted", None)]


async def test_a_conversation_or_a_user_that_is_gone_by_then_ends_the_email(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply())
    await rig.deliver(rig.reply(**{"Message-ID": "<2@x>"}))
    admin = {"role": "admin", "name": "Anna"}
    shop = rig.anna.api
    headers = rig.shop_headers
    assert (await shop.put("/api/v1/store/users/anna", json=admin, headers=headers)).status_code == 200
    await rig.post()
    assert (await shop.put("/api/v1/store/users/anna", json={"role": "customer"}, headers=headers)).status_code == 200
    await rig.sam.edit(rig.conversation, status="CLOSED")
    assert (await rig.sam.call("DELETE", f"/conversations/{rig.conversation}")).status_code == 204
    await rig.post()
    assert await rig.states() == [("refused", "no-longer-allowed"), ("refused", "conversation-deleted")]


async def test_a_long_reply_is_cut_and_whole_in_a_file(rig: Rig) -> None:
    await rig.send_email()
    text = "\n".join(f"Line {number} of a very long email." for number in range(1000))
    await rig.deliver(rig.reply(text))
    await rig.post()
    [message] = await rig.messages()
    assert (len(message["body"]) <= 10_000, message["body"][-1]) == (True, "…")
    [file] = message["attachments"]
    content = await rig.anna.call("GET", f"/attachments/{file['id']}")
    assert content.text.strip() == text


async def test_a_large_email_goes_through_the_database_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.notifications.inbound.intake.SMALL", 1000)
    monkeypatch.setattr("services.notifications.inbound.intake.LARGE", 1000)
    monkeypatch.setattr("services.notifications.inbound.reply_content.WHOLE", 999)
    await rig.send_email()
    email = with_files(rig.reply(f"See the file. {'x' * 5000}"), "a.pdf")
    await rig.deliver(email)
    await rig.deliver(email)
    async with rig.sweeping.notifications() as session:
        [original] = await session.scalars(select(InboundEmail.original))
    assert original == email.as_bytes()
    await rig.post()
    [message] = await rig.messages()
    assert [file["name"] for file in message["attachments"]] == ["a.pdf"]


async def test_many_files_and_large_ones_are_left_out_and_that_is_said(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(with_files(rig.reply(), *(f"{number}.pdf" for number in range(40))))
    await rig.post()
    assert await rig.states() == [("posted", "files-left-out")]
    [message] = await rig.messages()
    assert len(message["attachments"]) == 10


async def test_an_empty_email_is_ignored_and_a_picture_alone_is_a_message(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply("\n"))
    await rig.deliver(with_files(rig.reply("\n", **{"Message-ID": "<2@x>"}), "photo.pdf"))
    while await rig.post():
        pass
    assert await rig.states() == [("ignored", "empty"), ("posted", None)]
    [message] = await rig.messages()
    assert (message["body"], len(message["attachments"])) == ("", 1)


async def test_a_logo_that_the_conversation_has_is_not_sent_again(rig: Rig) -> None:
    await rig.send_email()
    for number in (1, 2):
        message = rig.reply(f"Text {number}", **{"Message-ID": f"<{number}@x>"})
        message.add_attachment(b"GIF89a logo", maintype="image", subtype="gif", filename="logo.gif", cid="<logo@x>")
        await rig.deliver(message)
        await rig.post()
    first, second = await rig.messages()
    assert (len(first["attachments"]), len(second["attachments"])) == (1, 0)


async def test_only_the_secret_opens_the_internal_calls(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply())
    rig.client.headers["Authorization"] = "Bearer wrong"
    await rig.post()
    assert await rig.states() == [("received", None)]
    assert (await rig.client.post("/internal/inbound/files", params={})).status_code == 401


async def test_nothing_is_kept_of_an_email_that_came_during_the_deletion_of_its_sender(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply())
    await rig.anna.api.delete("/api/v1/store/users/anna", headers=rig.shop_headers)
    await rig.run("update people set deleted = true where id = 'anna'")  # without the row that was not yet there
    await rig.post()
    assert await rig.states() == [("refused", "no-longer-allowed")]
    assert await _column(rig, "select coalesce(original::text, from_address) from inbound_emails") == [None]


async def test_nothing_is_kept_of_an_email_that_came_during_the_deletion_of_its_conversation(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply())
    await rig.sam.call("PATCH", f"/conversations/{rig.conversation}", json={"status": "CLOSED"})
    await rig.sam.call("DELETE", f"/conversations/{rig.conversation}")
    await rig.post()
    assert await rig.states() == [("refused", "conversation-deleted")]
    assert await _column(rig, "select coalesce(original::text, from_address) from inbound_emails") == [None]


async def test_processes_share_the_work_and_post_each_email_once(rig: Rig) -> None:
    await rig.send_email()
    for number in range(6):
        await rig.deliver(rig.reply(f"Line {number}", **{"Message-ID": f"<{number}@x>"}))
    while any(await asyncio.gather(*(rig.post() for _ in range(4)))):
        pass
    assert [message["body"] for message in await rig.messages()] == [f"Line {number}" for number in range(6)]


async def _column(rig: Rig, query: str) -> list[Any]:
    async with rig.sweeping.notifications() as session:
        return list(await session.scalars(text(query)))


async def test_an_email_that_ends_its_process_each_time_is_held_at_last(rig: Rig) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply("First."))
    await rig.deliver(rig.reply("Second.", **{"Message-ID": "<2@customer.test>"}))
    with killed_at("inbound-claimed"), pytest.raises(Killed):
        await rig.post()
    await rig.run("update inbound_emails set tries = 20, lease_until = now() - interval '1 second' where tries > 0")
    await rig.post()
    assert await rig.states() == [("held", "not-accepted"), ("posted", None)]
