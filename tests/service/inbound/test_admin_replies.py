"""Admins answer by email: to the customer from an email about messages, to colleagues from one about a note."""

from email.message import EmailMessage
from typing import Any

import httpx2
import pytest

from services.notifications.delivery.claiming import claim_emails
from services.notifications.inbound import reply_content
from services.notifications.inbound.operations import post_inbound
from shared.database.transactions import transaction
from shared.problems import Invalid
from tests.service.inbound.rig import SETTINGS, SUPPORT_ADDRESS, Rig, parsed, passed
from tests.service.inbound.test_new_conversations import HELD_PATH, known, learn
from tests.service.inbound.test_posting import Killed, killed_at, quoted, with_files

__all__ = ["known"]  # a fixture
SAM = "Sam <sam@store.test>"
WITH_SUPPORT = SETTINGS.model_copy(update={"support_email": "inbox@store.test"})


async def emails_to(rig: Rig, audience: str) -> list[EmailMessage]:
    """Claim what is due; return the emails to admins or to the support inbox."""
    rig.sweeping.settings = WITH_SUPPORT
    await learn(rig)
    await rig.run("update emails set next_attempt_at = now() where state = 'scheduled'")
    async with transaction(rig.sweeping.notifications) as session:
        claimed = await claim_emails(session, WITH_SUPPORT) or []
    found = [parsed(email.content) for email in claimed]
    rig.sent += found
    return [email for email in found if f"{audience}-messages" in str(email["List-Id"])]


@pytest.fixture
async def asked(known: Rig) -> Rig:
    """Anna has asked, and the support inbox has an email about it, the last one sent."""
    known.conversation = (await known.anna.open(body="Do you have it in blue, too?"))["id"]
    [_] = await emails_to(known, "support")
    return known


async def mention(rig: Rig, body: str = "Is that so?") -> EmailMessage:
    """Kim mentions Sam in a note; return the email about it."""
    kim = {"email": "kim@store.test", "role": "admin", "name": "Kim"}
    await rig.anna.api.put("/api/v1/store/users/kim", json=kim, headers=rig.shop_headers)
    headers = rig.sam.headers
    note = {"body": body, "mentions": ["sam"]}
    answer = await rig.sam.api.post(
        f"/api/v1/admin/conversations/{rig.conversation}/notes", json=note, headers=rig.acting_as("kim", "admin")
    )
    assert (answer.status_code, bool(headers)) == (201, True), answer.text
    [email] = await emails_to(rig, "admin")
    return email


async def timeline(rig: Rig) -> list[Any]:
    items: list[Any] = (await rig.sam.get(f"/conversations/{rig.conversation}/timeline"))["items"]
    return items


async def seen_by_customer(rig: Rig) -> list[str]:
    found = await rig.anna.get(f"/conversations/{rig.conversation}/messages")
    return [message["body"] for message in found["items"]]


async def test_a_reply_to_the_support_inbox_is_the_admins_answer(asked: Rig) -> None:
    email = asked.sent[-1]
    assert "sent to the customer" in email.get_body(["plain"]).get_content()  # type: ignore[union-attr]
    reply = asked.reply(f"Yes, we have.\n-- \nSam, ext. 42\n\n{quoted(email)}", From=SAM)
    await asked.deliver(passed(with_files(reply, "blue.pdf")), sender="sam@store.test")
    assert await asked.post() == 1
    conversation = await asked.sam.peek(asked.conversation)
    assert (conversation["status"], conversation["is_read_by_admin"], conversation["is_read_by_user"]) == (
        "AWAITING_USER",
        True,
        False,
    )
    assert conversation["assignee"]["id"] == "sam"
    message = (await asked.anna.get(f"/conversations/{asked.conversation}/messages"))["items"][-1]
    assert (message["body"], message["via"], message["sender"]["role"]) == ("Yes, we have.", "email", "admin")
    assert [file["name"] for file in message["attachments"]] == ["blue.pdf"]
    [row] = await asked.rows()
    assert (row.kind, row.state, row.user_id) == ("admin-message", "posted", "sam")


@pytest.mark.parametrize(
    ("sender", "signer", "reason"),
    [
        ("sam@store.test", None, "not-authenticated"),
        ("sam@store.test", "evil.test", "not-authenticated"),
        ("anna@customer.test", "", "other-sender"),
        ("eve@store.test", "", "other-sender"),
        ("shared@store.test", "", "ambiguous-sender"),
    ],
)
async def test_who_may_answer_from_the_support_inbox(asked: Rig, sender: str, signer: str | None, reason: str) -> None:
    for user_id in ("one", "two"):
        shared = {"email": "Shared@store.test", "role": "admin"}
        await asked.anna.api.put(f"/api/v1/store/users/{user_id}", json=shared, headers=asked.shop_headers)
    await learn(asked)
    reply = asked.reply("Yes, we have.", From=sender)
    await asked.deliver(reply if signer is None else passed(reply, signer), sender=sender)
    assert await asked.states() == [("held", reason)]
    assert await asked.post() == 0
    assert len(await seen_by_customer(asked)) == 1


async def test_an_uncertain_quote_is_held_for_the_admin_who_posts_it(
    asked: Rig, notifications_api: httpx2.AsyncClient
) -> None:
    reply = asked.reply("Yes, we have.\n\n> a translation of what we wrote", From=SAM)
    await asked.deliver(passed(reply), sender="sam@store.test")
    await asked.post()
    assert await asked.states() == [("held", "uncertain-quote")]
    assert len(await seen_by_customer(asked)) == 1
    [row] = await asked.rows()
    async with transaction(asked.sweeping.notifications) as session:
        with pytest.raises(Invalid, match="Say which admin"):  # as the command does without --user
            await post_inbound(session, row.id, posted_by="")
    path = f"{HELD_PATH}/{row.id}/post"
    answer = await notifications_api.post(path, headers=asked.acting_as("sam", "admin"))
    assert answer.status_code == 204, answer.text
    await asked.post()
    assert await asked.states() == [("posted", None)]
    assert len(await seen_by_customer(asked)) == 2


async def test_an_email_that_is_not_among_the_newest_can_be_answered(
    asked: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_content, "QUOTED_EMAILS", 1)
    older, to = asked.sent[-1], asked.address
    await asked.anna.post(asked.conversation, "And in red?")
    [_] = await emails_to(asked, "support")
    reply = asked.reply(f"Yes, we have.\n\n{quoted(older)}", to=to, From=SAM)
    await asked.deliver(passed(reply), to, sender="sam@store.test")
    await asked.post()
    assert (await seen_by_customer(asked))[-1] == "Yes, we have."


async def test_somebody_elses_words_never_become_an_admins_answer(
    asked: Rig, notifications_api: httpx2.AsyncClient
) -> None:
    await asked.deliver(passed(asked.reply("I am the customer.")))
    [row] = await asked.rows()
    sam, path = asked.acting_as("sam", "admin"), f"{HELD_PATH}/{row.id}"
    answer = await notifications_api.post(f"{path}/post", headers=sam)
    assert (answer.status_code, answer.json()["code"]) == (409, "inbound-not-waiting")
    assert (await notifications_api.post(f"{path}/discard", headers=sam)).status_code == 204
    answer = await notifications_api.post(f"{path}/post", headers=sam)
    assert (answer.status_code, answer.json()["code"]) == (409, "inbound-not-waiting")


async def test_an_address_that_an_admin_had_once_answers_for_nobody(asked: Rig) -> None:
    await mention(asked)
    moved = {"email": "sam@new.test", "role": "admin", "name": "Sam"}
    await asked.anna.api.put("/api/v1/store/users/sam", json=moved, headers=asked.shop_headers)
    await learn(asked)
    await asked.deliver(passed(asked.reply("It is.", From=SAM)), sender="sam@store.test")
    assert await asked.states() == [("held", "other-sender")]


async def test_a_reply_to_a_mention_is_a_note_for_its_author_and_never_a_message(asked: Rig) -> None:
    email = await mention(asked)
    assert "becomes a note" in email.get_body(["plain"]).get_content()  # type: ignore[union-attr]
    await asked.sam.edit(asked.conversation, status="CLOSED")
    await asked.deliver(passed(asked.reply(f"It is.\n\n{quoted(email)}", From=SAM)), sender="sam@store.test")
    await asked.post()
    [first, answer] = [item for item in await timeline(asked) if item["kind"] == "note"]
    assert (answer["body"], answer["actor"]["id"]) == ("It is.", "sam")
    assert [admin["id"] for admin in answer["mentions"]] == ["kim"]
    assert first["actor"]["id"] == "kim"
    assert len(await seen_by_customer(asked)) == 1
    assert (await asked.sam.peek(asked.conversation))["status"] == "CLOSED"


@pytest.mark.parametrize("way", ["expired", "held", "support-address", "removed", "again", "quoted"])
async def test_whatever_happens_a_note_stays_a_note(
    asked: Rig, way: str, notifications_api: httpx2.AsyncClient
) -> None:
    email = await mention(asked)
    headers, to, sender = {"From": SAM}, asked.address, "sam@store.test"
    text = "Do not tell the customer."
    if way == "expired":
        await asked.run("update reply_addresses set expires_at = now() - interval '1 day'")
    if way == "held":
        headers["From"] = "Sam <sam@home.test>"
    if way == "support-address":
        to, headers["In-Reply-To"] = SUPPORT_ADDRESS, str(email["Message-ID"])
    if way == "removed":
        [note] = [item for item in await timeline(asked) if item["kind"] == "note"]
        await asked.sam.api.delete(
            f"/api/v1/admin/conversations/{asked.conversation}/notes/{note['id']}",
            headers=asked.acting_as("kim", "admin"),
        )
        await learn(asked)
    if way == "quoted":
        text += "\n> Anything"
    reply = passed(asked.reply(text, to=to, **headers))
    for _ in range(2 if way == "again" else 1):
        await asked.deliver(reply, to, sender=sender)
    if way == "held":
        [row] = await asked.rows()
        assert (row.kind, row.state) == ("note", "held")
        path = f"{HELD_PATH}/{row.id}/post"
        assert (await notifications_api.post(path, headers=asked.acting_as("kim", "admin"))).status_code == 204
    while await asked.post():
        pass
    assert await asked.states() == [("posted", None)]
    assert len(await seen_by_customer(asked)) == 1
    notes = [item for item in await timeline(asked) if item["kind"] == "note" and item["body"].startswith("Do not")]
    assert len(notes) == 1
    assert "Do not" not in (await asked.anna.call("GET", f"/conversations/{asked.conversation}")).text


@pytest.mark.parametrize("where", ["inbound-claimed", "inbound-posted", "inbound-recorded"])
@pytest.mark.parametrize("kind", ["note", "admin-message"])
async def test_killed_anywhere_it_is_saved_once(asked: Rig, where: str, kind: str) -> None:
    if kind == "note":
        await mention(asked)
    await asked.deliver(passed(asked.reply("Once.", From=SAM)), sender="sam@store.test")
    with killed_at(where), pytest.raises(Killed):
        await asked.post()
    await asked.run("update inbound_emails set lease_until = now() - interval '1 second' where lease_until is not null")
    while await asked.post():
        pass
    assert await asked.states() == [("posted", None)]
    items = await timeline(asked)
    assert sum("Once." in str(item) for item in items) == 1


async def test_an_admin_who_is_none_any_more_answers_nobody(asked: Rig) -> None:
    await asked.deliver(passed(asked.reply("Yes, we have.", From=SAM)), sender="sam@store.test")
    customer = {"email": "sam@store.test", "role": "customer"}
    await asked.anna.api.put("/api/v1/store/users/sam", json=customer, headers=asked.shop_headers)
    await asked.post()
    assert await asked.states() == [("refused", "no-longer-allowed")]


async def test_without_a_trusted_mail_server_emails_to_admins_have_no_address_for_replies(known: Rig) -> None:
    await known.anna.open(body="Hello?")
    known.sweeping.settings = WITH_SUPPORT
    await learn(known)
    await known.run("update emails set next_attempt_at = now() where state = 'scheduled'")
    settings = WITH_SUPPORT.model_copy(update={"inbound_authserv_id": None})
    async with transaction(known.sweeping.notifications) as session:
        [claimed] = await claim_emails(session, settings) or []
    email = parsed(claimed.content)
    assert email["Reply-To"] is None
    assert "don't reach the customer" in email.get_body(["plain"]).get_content()  # type: ignore[union-attr]
