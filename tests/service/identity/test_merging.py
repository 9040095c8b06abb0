"""Two customers become one: the old id acts for the person, and everything of it is theirs."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.identity.merging import begin_merge
from services.conversations.identity.sessions import begin
from services.conversations.messaging import merged_ids
from services.conversations.messaging.merged_ids import finish_merges, ids_of, merge_round, move_batch
from services.conversations.rules import Side
from shared.auth.cookies import cookie_name
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory, transaction
from shared.events import EventType
from shared.settings import Role
from tests.helpers.sse_client import reading
from tests.helpers.waiting import eventually
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, Caller, logged, problem
from tests.service.helpers.live_api import Live, until_ended, until_received
from tests.service.messaging.test_deleting import waiting_for_a_lock

CANNOT = (409, "cannot-merge")


async def merge(shop: Caller, old: str, into: str) -> Any:
    return await shop.call("POST", f"/users/{old}/merge", {"into": into})


async def merged(shop: Caller, old: str = "anna", into: str = "ben") -> None:
    answer = await merge(shop, old, into)
    assert (answer.status_code, answer.json()) == (200, {"id": old, "merged_into": into})


async def test_everything_of_the_old_id_is_the_persons(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await shop.call("PUT", "/orders/1", ORDER)
    await shop.call("PUT", "/users/ben", {"name": "Ben"})
    file = await anna.upload()
    old = await anna.open(body="As a guest", order_id="1")
    await sam.post(old["id"], "Yes?")
    own = await ben.open(body="With an account")

    await merged(shop)

    for caller in (anna, ben):  # the process knows both ids, and their claims
        found = await caller.get("/conversations")
        assert {each["id"] for each in found["items"]} == {old["id"], own["id"]}
        assert {each["user"]["id"] for each in found["items"]} == {"ben"}
        assert await caller.get("/unread") == {"unread": 1}
        assert [order["id"] for order in (await caller.get("/orders"))["items"]] == ["1"]
    first = (await ben.get(f"/conversations/{old['id']}/messages"))["items"][0]
    assert first["sender"] == {"id": "ben", "name": "Ben", "role": "customer"}
    assert (await anna.post(own["id"], "Still here", attachments=[file["id"]]))["sender"]["id"] == "ben"
    assert (await sam.get("/conversations", user_id="ben"))["items"][0]["user"]["name"] == "Ben"
    assert [each["id"] for each in (await sam.get("/users", q="anna"))["items"]] == ["ben"]
    assert (await anna.open(body="Anew"))["user"]["id"] == "ben"
    assert (await sam.open(user_id="anna", body="For you"))["user"]["id"] == "ben"
    async with conversations() as session:
        assert await ids_of(session, "anna") == ["ben", "anna"]
        audited = "select actor_id, target_id, data from audit_entries where action = 'user.merged' order by at desc"
        assert (await session.execute(text(audited))).first() == ("shop", "anna", {"into": "ben"})


async def test_admins_find_the_person_by_the_old_id(anna: Caller, ben: Caller, sam: Caller, shop: Caller) -> None:
    for caller in (anna, ben):
        await caller.open()
    await merged(shop)
    assert len((await sam.get("/conversations", user_id="anna"))["items"]) == 2
    assert len((await sam.get("/conversations", user_id="anna", sort="waiting"))["items"]) == 2
    await shop.call("PUT", "/users/ben", {"name": "Ben", "email": "ben@customer.test"})
    assert [[each["id"] for each in (await sam.get("/users", q=q))["items"]] for q in ("anna", "ann")] == [["ben"], []]


async def test_the_store_syncs_under_both_ids(anna: Caller, ben: Caller, shop: Caller) -> None:
    await ben.open()
    await shop.call("PUT", "/orders/1", ORDER)
    await merged(shop)

    assert (await shop.call("PUT", "/orders/1", ORDER | {"user_id": "ben"})).status_code == 200
    assert (await shop.call("PUT", "/orders/1", ORDER)).status_code == 200
    lines = [{"type": "user", "id": "anna", "name": "B. Berg"}, {"type": "order", "id": "2", **ORDER}]
    answer = await shop.call("POST", "/import", content="\n".join(map(json.dumps, lines)).encode())
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [200, 201]
    assert len((await anna.get("/orders"))["items"]) == 2
    assert (await ben.open())["user"]["name"] == "B. Berg"


async def test_the_person_keeps_their_profile_and_gets_what_they_lack(
    shop: Caller, conversations: SessionFactory
) -> None:
    await shop.call("PUT", "/users/guest", {"name": "A Guest", "email": "guest@customer.test", "locale": "de"})
    await shop.call("PUT", "/users/account", {"email": "account@customer.test"})
    await merged(shop, "guest", "account")
    async with conversations() as session:
        rows = (await session.execute(text("select id, name, email, locale from users order by id"))).all()
    assert rows == [("account", "A Guest", "account@customer.test", "de"), ("guest", None, None, None)]
    payloads = [payload["person"] for kind, payload in await logged(conversations) if kind == EventType.USER_MERGED]
    assert [(person["id"], person["merged_into"], person["email"]) for person in payloads] == [
        ("guest", "account", None)
    ] * 2


async def test_a_chain_leads_to_its_end_and_a_repetition_changes_nothing(
    anna: Caller, ben: Caller, shop: Caller
) -> None:
    conversation = (await anna.open())["id"]
    await ben.open()
    await shop.call("PUT", "/users/cora", {})
    await merged(shop, "anna", "ben")
    assert (await anna.peek(conversation))["user"]["id"] == "ben"  # the process has learned that
    await merged(shop, "ben", "cora")
    await merged(shop, "unknown", "cora")
    assert (await merge(shop, "anna", "ben")).json() == {"id": "anna", "merged_into": "cora"}
    for caller in (anna, ben):
        assert (await caller.peek(conversation))["user"]["id"] == "cora"


async def test_who_cannot_be_merged(anna: Caller, ben: Caller, sam: Caller, shop: Caller) -> None:
    for caller in (anna, ben):
        await caller.open()
    await sam.get("/conversations")
    await shop.call("DELETE", "/users/gone")
    await shop.call("PUT", "/users/dora", {})
    for old, into in (("anna", "anna"), ("anna", "nobody")):
        assert problem(await merge(shop, old, into)) == (422, "validation-failed")
    for old, into in (("anna", "sam"), ("sam", "anna"), ("gone", "anna"), ("anna", "gone")):
        assert problem(await merge(shop, old, into)) == CANNOT
    await merged(shop)
    for old, into in (("ben", "anna"), ("anna", "dora")):
        assert problem(await merge(shop, old, into)) == CANNOT
    assert (await ben.open())["user"]["id"] == "ben"


async def test_of_two_mergers_against_each_other_one_is_refused(anna: Caller, ben: Caller, shop: Caller) -> None:
    for caller in (anna, ben):
        await caller.open()
    answers = await asyncio.gather(merge(shop, "anna", "ben"), merge(shop, "ben", "anna"))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert len((await anna.get("/conversations"))["items"]) == 2


async def test_a_message_posted_during_the_merger_is_the_persons(
    anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="One"))["id"]
    await ben.open()
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
        path = f"/conversations/{conversation}/messages"
        post = await waiting_for_a_lock(conversations, anna.call("POST", path, {"body": "Two"}, key="two"))
    assert (await post).status_code == 201  # it has completed the merger
    again = await anna.call("POST", path, {"body": "Two"}, key="two")
    assert again.json() == (await post).json()
    assert [message["sender"]["id"] for message in (await ben.get(path))["items"]] == ["ben", "ben"]


async def test_a_message_posted_during_a_second_merger_is_the_last_persons(
    anna: Caller, ben: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="One"))["id"]
    await ben.open()
    await shop.call("PUT", "/users/cora", {})
    await merged(shop)
    async with transaction(conversations) as session:
        await begin_merge(session, "ben", "cora")
        path = f"/conversations/{conversation}/messages"
        post = await waiting_for_a_lock(conversations, anna.call("POST", path, {"body": "Two"}))  # by now as Ben
    assert (await post).json()["sender"]["id"] == "cora"


async def test_a_conversation_opened_during_the_merger_is_the_persons(
    anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    for caller in (anna, ben):
        await caller.open()
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
        opening = await waiting_for_a_lock(conversations, anna.open(body="Hello?"))
    assert (await opening)["user"]["id"] == "ben"


async def test_a_file_uploaded_during_the_merger_is_the_persons(
    anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    await anna.open()
    conversation = (await ben.open())["id"]
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
        upload = await waiting_for_a_lock(conversations, anna.upload(b"x"))
    assert (await ben.post(conversation, "", attachments=[(await upload)["id"]]))["attachments"]


async def test_a_session_that_begins_during_the_merger_is_the_persons(
    api: httpx2.AsyncClient, ben: Caller, conversations: SessionFactory
) -> None:
    browser = Browser(api)
    await ben.open(subject="Of Ben")
    await browser.sign_in("anna")
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
        starting = await waiting_for_a_lock(conversations, browser.sign_in("anna"))
    assert (await starting).status_code == 303
    assert "Of Ben" in (await browser.get("/dashboard/messages/")).text


async def test_an_idempotency_key_of_the_old_id_still_works(anna: Caller, ben: Caller, shop: Caller) -> None:
    opened = await anna.open(body="One", key="open")
    await ben.open(key="open")
    path = f"/conversations/{opened['id']}/messages"
    before = (await anna.call("POST", path, {"body": "Two"}, key="two")).json()
    await merged(shop)
    again = await anna.call("POST", path, {"body": "Two"}, key="two")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == before["id"]


async def test_many_conversations_move_in_batches_that_a_job_completes(
    anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    for _ in range(5):
        await anna.open(body="Hello?")
    await ben.open()
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
    async with transaction(conversations) as session:
        assert await move_batch(session, "anna", size=2)
    assert len((await ben.get("/conversations"))["items"]) == 3
    assert await finish_merges(conversations, "anna") == 1
    assert await finish_merges(conversations, "anna") == 0
    assert len((await anna.get("/conversations"))["items"]) == 6


async def test_a_merger_that_fails_holds_up_no_other(
    anna: Caller, ben: Caller, shop: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(session: AsyncSession, old_id: str) -> bool:
        if old_id == "anna":
            raise RuntimeError
        return await move_batch(session, old_id)

    await shop.call("PUT", "/users/cora", {})
    own = [(await caller.open())["id"] for caller in (anna, ben)]
    async with transaction(conversations) as session:
        for old_id in ("anna", "ben"):
            await begin_merge(session, old_id, "cora")
    with monkeypatch.context() as patched:
        patched.setattr(merged_ids, "move_batch", failing)
        assert await merge_round(conversations) == 1
    owners = text("select user_id from conversations where id = any(cast(:ids as uuid[])) order by user_id")
    for expected in (["anna", "cora"], ["cora", "cora"]):
        async with conversations() as session:
            assert (await session.scalars(owners, {"ids": own})).all() == expected
        assert await merge_round(conversations) == 0


async def test_erasing_the_one_erases_both(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="A secret"))["id"]
    await ben.open()
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")  # and nothing has moved
    answer = await shop.call("DELETE", "/users/anna?content=true")
    assert answer.status_code == 204
    async with conversations() as session:
        left = str((await session.execute(text("select to_jsonb(e) from events e"))).all())
        left += str((await session.execute(text("select to_jsonb(u) from users u"))).all())
        left += str((await session.execute(text("select to_jsonb(m) from messages m"))).all())
    for erased in ("Anna", "anna@customer.test", "Ben", "A secret"):
        assert erased not in left
    assert problem(await sam.call("GET", f"/conversations/{conversation}")) == (404, "not-found")
    for caller in (anna, ben):
        assert problem(await caller.call("GET", "/unread")) == (401, "unauthenticated")
    assert (await shop.call("PUT", "/users/anna", {"name": "Anew"})).status_code == 201
    for caller in (anna, ben):
        assert (await caller.open())["user"]["id"] == "ben"


async def test_sessions_and_streams_go_on_as_the_person(
    live: Live, anna: Caller, ben: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await ben.open()
    async with transaction(conversations) as session:
        known = await begin(session, "anna", Side.CUSTOMER)
        token = issue_session_token(live.settings, "anna", Role.CUSTOMER, known.id, known.csrf)
    cookie = {"Cookie": f"{cookie_name(live.settings)}={token}"}
    await live.number()
    position = await live.position()
    async with live.reading(anna) as olds, live.reading(ben) as persons, live.reading(sam) as admins:
        await eventually(lambda: olds.events and persons.events and admins.events)
        await merged(shop)
        await live.number()
        await until_ended(olds)
        await eventually(lambda: "reset" in persons.names)
        await eventually(lambda: "reset" in admins.names)
    async with (
        live.reading(anna, last_id=position) as back,
        reading(live.origin, cookie) as browser,
    ):
        await eventually(lambda: "reset" in back.names)
        await eventually(lambda: browser.events)
        await sam.post(conversation, "Yes?")
        await live.number()
        await until_received(back)
        await until_received(browser)
