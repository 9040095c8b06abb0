"""Emails to the address for new conversations: who may open one, what it says, and that it opens one only."""

from typing import Any

import httpx2
import pytest

from tests.service.inbound.rig import SENDER, SUPPORT_ADDRESS, Rig, passed
from tests.service.inbound.test_posting import Killed, killed_at, with_files

HELD_PATH = "/api/v1/notifications/inbound"


@pytest.fixture
async def known(rig: Rig) -> Rig:
    """Anna, Bert and the admin Sam are known to the notifications service."""
    people = {
        "anna": {"email": SENDER, "role": "customer", "name": "Anna"},
        "bert": {"email": "Bert@Customer.Test", "role": "customer"},
        "carl": {"email": "shared@customer.test", "role": "customer"},
        "cora": {"email": "shared@customer.test", "role": "customer"},
        "sam": {"email": "sam@store.test", "role": "admin", "name": "Sam"},
    }
    for user_id, fields in people.items():
        answer = await rig.anna.api.put(f"/api/v1/store/users/{user_id}", json=fields, headers=rig.shop_headers)
        assert answer.status_code in {200, 201}, answer.text
    await learn(rig)
    return rig


async def learn(rig: Rig) -> None:
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()


async def conversations(rig: Rig) -> list[Any]:
    found: list[Any] = (await rig.sam.get("/conversations"))["items"]
    return found


async def test_a_customers_email_opens_a_conversation_with_its_subject_and_files(known: Rig) -> None:
    assert await known.deliver(with_files(known.new_email(), "a.pdf"), SUPPORT_ADDRESS) is None
    assert await known.post() == 1
    [conversation] = await conversations(known)
    assert (conversation["subject"], conversation["status"], conversation["user"]["id"]) == (
        "Which colour?",
        "OPEN",
        "anna",
    )
    assert (conversation["is_read_by_admin"], conversation["is_read_by_user"]) == (False, True)
    [message] = (await known.anna.get(f"/conversations/{conversation['id']}/messages"))["items"]
    assert (message["body"], message["via"], message["number"]) == ("The blue one, please.", "email", 1)
    assert [file["name"] for file in message["attachments"]] == ["a.pdf"]
    [row] = await known.rows()
    assert (row.state, row.kind, str(row.message_id), row.user_id) == ("posted", "conversation", message["id"], "anna")
    assert str(row.conversation_id) == conversation["id"]


@pytest.mark.parametrize(
    ("headers", "signer", "expected", "user_id"),
    [
        ({}, "", ("received", None), "anna"),
        ({"From": "bert@customer.test"}, "", ("received", None), "bert"),
        ({}, None, ("held", "not-authenticated"), "anna"),
        ({}, "evil.test", ("held", "not-authenticated"), "anna"),
        ({"From": "eve@other.test"}, "", ("held", "unknown-sender"), None),
        ({"From": "shared@customer.test"}, "", ("held", "ambiguous-sender"), None),
        ({"From": "sam@store.test"}, "", ("held", "unknown-sender"), None),
        ({"From": f"{SENDER}, eve@other.test"}, "", ("held", "unknown-sender"), None),
        ({"Auto-Submitted": "auto-replied"}, "", ("ignored", "automatic"), "anna"),
        ({"From": "postmaster@customer.test"}, "", ("ignored", "system-sender"), None),
    ],
)
async def test_who_may_open_a_conversation(
    known: Rig, headers: dict[str, str], signer: str | None, expected: tuple[str, str | None], user_id: str | None
) -> None:
    assert await known.deliver(known.new_email(signer=signer, **headers), SUPPORT_ADDRESS.upper()) is None
    [row] = await known.rows()
    assert ((row.state, row.reason), row.user_id) == (expected, user_id)
    assert await known.post() == (expected[0] == "received")
    assert len(await conversations(known)) == (expected[0] == "received")


async def test_without_a_trusted_mail_server_every_email_is_held(known: Rig) -> None:
    forged = known.new_email(signer=None)
    forged["Authentication-Results"] = "mx.elsewhere.test; dmarc=pass header.from=customer.test"
    await known.deliver(forged, SUPPORT_ADDRESS)
    assert await known.states() == [("held", "not-authenticated")]


@pytest.mark.parametrize(
    ("subject", "body", "expected"),
    [
        ("=?utf-8?q?Gr=C3=B6=C3=9Fe=E2=80=A8und_Farbe?=", "Text", "Größe und Farbe"),
        ("", "  \n\nThe parcel\nhas not come.", "The parcel has not come."),
        ("\u200b", "Text", "Text"),
        ("x" * 500, "Text", "x" * 199 + "…"),
        ("", "\n", "photo.pdf"),
    ],
)
async def test_a_subject_is_one_line_of_at_most_200_characters(
    known: Rig, subject: str, body: str, expected: str
) -> None:
    message = known.new_email(body, Subject="")
    if subject:
        message["Subject"] = subject
    await known.deliver(with_files(message, "photo.pdf"), SUPPORT_ADDRESS)
    await known.post()
    assert [conversation["subject"] for conversation in await conversations(known)] == [expected]


@pytest.mark.parametrize("where", ["inbound-claimed", "inbound-file-sent", "inbound-posted", "inbound-recorded"])
async def test_killed_anywhere_and_delivered_twice_it_opens_one_conversation(known: Rig, where: str) -> None:
    email = with_files(known.new_email(), "a.pdf")
    await known.deliver(email, SUPPORT_ADDRESS)
    with killed_at(where), pytest.raises(Killed):
        await known.post()
    await known.deliver(email, SUPPORT_ADDRESS)
    await known.run("update inbound_emails set lease_until = now() - interval '1 second' where lease_until is not null")
    while await known.post():
        pass
    [conversation] = await conversations(known)
    assert conversation["message_count"] == 1
    assert await known.states() == [("posted", None)]


async def test_an_outage_and_a_limit_delay_an_email_and_lose_nothing(
    known: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known.deliver(known.new_email(), SUPPORT_ADDRESS)
    answers = [httpx2.Response(503), httpx2.Response(429, headers={"Retry-After": "7200"})]
    working = known.client.post

    async def failing(path: str, **request: Any) -> httpx2.Response:
        return answers.pop(0) if answers else await working(path, **request)

    monkeypatch.setattr(known.client, "post", failing)
    for _ in range(2):
        assert await known.post() == 1
        assert await known.states() == [("received", None)]
        await known.run("update inbound_emails set next_attempt_at = now()")
    [row] = await known.rows()
    assert (row.tries, row.failing_since) == (1, None)
    await known.post()
    assert await known.states() == [("posted", None)]


async def test_a_reply_that_comes_to_this_address_belongs_to_its_conversation(known: Rig) -> None:
    sent = await known.send_email()
    known_id = str(sent["Message-ID"])
    await known.deliver(
        known.new_email("By another way", **{"In-Reply-To": known_id, "Message-ID": "<2@x>"}), SUPPORT_ADDRESS
    )
    await known.post()
    assert [message["body"] for message in await known.messages()] == ["By another way"]
    forged = known.new_email("Forged", signer=None, **{"References": f"<x@y> {known_id}", "Message-ID": "<3@x>"})
    await known.deliver(forged, SUPPORT_ADDRESS)
    stranger = known.new_email("Other", **{"From": "eve@x.test", "In-Reply-To": known_id, "Message-ID": "<4@x>"})
    await known.deliver(stranger, SUPPORT_ADDRESS)
    bert = known.new_email("Mine", **{"From": "bert@customer.test", "In-Reply-To": known_id, "Message-ID": "<5@x>"})
    await known.deliver(bert, SUPPORT_ADDRESS)
    rows = (await known.rows())[1:]
    assert [(row.kind, row.state, row.reason) for row in rows] == [
        ("message", "held", "not-authenticated"),
        ("message", "held", "other-sender"),
        ("conversation", "received", None),
    ]
    assert [str(row.conversation_id) == known.conversation for row in rows] == [True, True, False]


async def test_a_second_email_that_refers_to_the_first_one_joins_its_conversation(known: Rig) -> None:
    await known.deliver(known.new_email("First"), SUPPORT_ADDRESS)
    await known.post()
    again = known.new_email("Second", **{"References": "<new@customer.test>", "Message-ID": "<2@customer.test>"})
    await known.deliver(again, SUPPORT_ADDRESS)
    others = known.new_email(
        "Third", **{"From": "bert@customer.test", "In-Reply-To": "<new@customer.test>", "Message-ID": "<3@x>"}
    )
    await known.deliver(others, SUPPORT_ADDRESS)
    while await known.post():
        pass
    found = {each["user"]["id"]: each["message_count"] for each in await conversations(known)}
    assert found == {"anna": 2, "bert": 1}


async def test_an_admin_chooses_the_customer_of_a_held_email(
    known: Rig, notifications_api: httpx2.AsyncClient, acting_as: Any
) -> None:
    await known.deliver(known.new_email(From="Anna <anna@work.test>"), SUPPORT_ADDRESS)
    [row] = await known.rows()
    admin, path = acting_as("sam", "admin"), f"{HELD_PATH}/{row.id}/post"
    for body, why in (
        (None, "Choose the customer"),
        ({"user_id": "nobody"}, "no such customer"),
        ({"user_id": "sam"}, "no such customer"),
    ):
        answer = await notifications_api.post(path, json=body, headers=admin)
        assert (answer.status_code, why in answer.json()["detail"]) == (422, True), answer.text
    assert (await notifications_api.post(path, json={"user_id": "anna"}, headers=admin)).status_code == 204
    await known.post()
    [conversation] = await conversations(known)
    assert conversation["user"]["id"] == "anna"
    [item] = (await notifications_api.get(HELD_PATH, headers=admin)).json()["items"]
    assert (item["state"], item["user_id"], item["posted_by"]) == ("posted", "anna", "sam")


async def test_the_old_id_of_a_merged_customer_means_the_person(
    known: Rig, notifications_api: httpx2.AsyncClient, acting_as: Any
) -> None:
    await known.send_email()
    await known.deliver(known.reply(From="anna@work.test"))
    await known.deliver(known.new_email(From="anna@work.test"), SUPPORT_ADDRESS)
    merged = {"into": "bert"}
    await known.anna.api.post("/api/v1/store/users/anna/merge", json=merged, headers=known.shop_headers)
    await learn(known)
    for row in await known.rows():
        path = f"{HELD_PATH}/{row.id}/post"
        for user_id, status in (("carl", 422), ("anna", 204)) if row.kind == "message" else (("anna", 204),):
            answer = await notifications_api.post(path, json={"user_id": user_id}, headers=acting_as("sam", "admin"))
            assert answer.status_code == status, answer.text
    while await known.post():
        pass
    assert await known.states() == [("posted", None)] * 2
    assert [each["user"]["id"] for each in await conversations(known)] == ["bert"] * 2
    assert {row.user_id for row in await known.rows()} == {"bert"}


async def test_a_customer_who_is_none_any_more_leaves_the_email_to_an_admin(known: Rig) -> None:
    await known.deliver(known.new_email(), SUPPORT_ADDRESS)
    admin = {"role": "admin", "email": SENDER}
    await known.anna.api.put("/api/v1/store/users/anna", json=admin, headers=known.shop_headers)
    await known.post()
    assert await known.states() == [("held", "no-longer-allowed")]


async def test_a_held_email_under_an_old_id_is_kept_for_an_admin(known: Rig) -> None:
    await known.deliver(known.new_email(), SUPPORT_ADDRESS)
    await known.run("update people set deleted = true, merged_into = 'bert' where id = 'anna'")  # the email came since
    admin = {"role": "admin", "email": SENDER}
    await known.anna.api.put("/api/v1/store/users/anna", json=admin, headers=known.shop_headers)
    await known.post()
    assert await known.states() == [("held", "no-longer-allowed")]
    assert await known.column("select original is not null from inbound_emails") == [True]


async def test_held_emails_are_bounded(known: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(22):
        await known.deliver(
            known.new_email(**{"From": "eve@other.test", "Message-ID": f"<{number}@x>"}), SUPPORT_ADDRESS
        )
    states = await known.states()
    assert states == [("held", "unknown-sender")] * 20 + [("ignored", "too-many-held")] * 2
    monkeypatch.setattr("services.notifications.inbound.intake._CAPS", (20, 100, 20, 21, 2**30))
    for number in range(2):
        await known.deliver(
            known.new_email(**{"From": f"e{number}@x.test", "Message-ID": f"<{number}@y>"}), SUPPORT_ADDRESS
        )
    assert (await known.states())[-2:] == [("held", "unknown-sender"), ("ignored", "too-many-held")]
    await known.send_email()
    monkeypatch.setattr("services.notifications.inbound.intake._CAPS", (20, 1, 20, 1000, 2**30))
    for number in range(2):
        await known.deliver(known.reply(**{"From": f"f{number}@x.test", "Message-ID": f"<{number}@z>"}))
    assert (await known.states())[-2:] == [("held", "other-sender"), ("ignored", "too-many-held")]
    [kept] = await known.column(
        "select count(*) from inbound_emails where (original is null) <> (reason = 'too-many-held')"
    )
    assert kept == 0


async def test_one_customer_opens_twenty_an_hour_and_the_others_are_held(
    known: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.inbound.intake._CAPS", (2, 100, 20, 1000, 2**30))
    for number in range(3):
        await known.deliver(known.new_email(**{"Message-ID": f"<{number}@x>"}), SUPPORT_ADDRESS)
    assert await known.states() == [("received", None)] * 2 + [("held", "too-many")]


async def test_a_reply_waits_for_the_limit_of_its_customer(known: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await known.send_email()
    await known.deliver(passed(known.reply()))
    working = known.client.post

    async def limited(*_: object, **__: object) -> httpx2.Response:
        return httpx2.Response(429, headers={"Retry-After": "30"})

    monkeypatch.setattr(known.client, "post", limited)
    await known.post()
    assert await known.states() == [("received", None)]
    assert await known.post() == 0
    [wait] = await known.column("select extract(epoch from next_attempt_at - clock_timestamp()) from inbound_emails")
    assert 25 < wait <= 30
    monkeypatch.setattr(known.client, "post", working)
    await known.run("update inbound_emails set next_attempt_at = now()")
    await known.post()
    assert len(await known.messages()) == 1
