"""The routes of webhooks."""

import asyncio
import base64
from typing import Any

import pytest
from sqlalchemy import text

from services.conversations.webhooks import deliveries
from services.conversations.webhooks.housekeeping import purge_deliveries
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import UNKNOWN_ID, Caller, problem

URL = "https://store.example/hooks"


async def create(shop: Caller, **fields: Any) -> Any:
    answer = await shop.call("POST", "/webhooks", {"url": URL, "types": ["message.posted"]} | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_secret_is_shown_once_and_again_only_as_a_new_one(shop: Caller) -> None:
    created = await create(shop, description=" The shop's backend ")
    secret = created.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert created["description"] == "The shop's backend"
    assert (created["enabled"], created["failures"], created["previous_secret_until"]) == (True, 0, None)
    path = f"/webhooks/{created['id']}"
    assert await shop.get(path) == created
    assert await shop.get("/webhooks") == {"items": [created], "next_cursor": None}

    replaced = (await shop.call("POST", f"{path}/secret")).json()
    assert replaced["secret"] != secret
    assert replaced["previous_secret_until"] is not None
    ended = (await shop.call("POST", f"{path}/secret", {"keep_previous_hours": 0})).json()
    assert ended["previous_secret_until"] is None
    assert "secret" not in (await shop.call("PATCH", path, {"types": ["email.failed"]})).json()


async def test_a_repeated_request_creates_one_webhook_and_shows_no_secret(shop: Caller) -> None:
    body = {"url": URL, "types": ["message.posted"]}
    first = await shop.call("POST", "/webhooks", body, key="once")
    again = await shop.call("POST", "/webhooks", body, key="once")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json() | {"secret": None}
    other = await shop.call("POST", "/webhooks", body | {"url": f"{URL}/2"}, key="once")
    assert problem(other) == (422, "idempotency-key-reused")


async def test_a_repeated_request_for_a_new_secret_returns_it_again_until_it_is_replaced(shop: Caller) -> None:
    path = f"/webhooks/{(await create(shop))['id']}"
    first, again = [await shop.call("POST", f"{path}/secret", key="once") for _ in range(2)]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    assert problem(await shop.call("POST", f"{path}/secret", {"keep_previous_hours": 1}, key="once")) == (
        422,
        "idempotency-key-reused",
    )
    newer = (await shop.call("POST", f"{path}/secret", key="twice")).json()
    assert newer["secret"] not in {first.json()["secret"], None}
    assert (await shop.call("POST", f"{path}/secret", key="once")).json() == newer | {"secret": None}


async def test_concurrent_requests_with_a_key_act_once(shop: Caller) -> None:
    path = f"/webhooks/{(await create(shop))['id']}"
    test = (await shop.call("POST", f"{path}/test")).json()
    period = {"from": "2026-01-01T00:00:00Z"}
    for call, body in (
        ("/secret", None),
        ("/test", None),
        ("/replay", period),
        (f"/deliveries/{test['id']}/replay", None),
    ):
        answers = await asyncio.gather(*(shop.call("POST", path + call, body, key="once") for _ in range(4)))
        assert sorted("Idempotency-Replayed" in answer.headers for answer in answers) == [False, True, True, True]
        assert len({answer.text for answer in answers}) == 1, answers[0].text
    assert len((await shop.get(f"{path}/deliveries"))["items"]) == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"url": "http://store.example/", "types": ["message.posted"]}, "https"),
        ({"url": "https://10.0.0.1/", "types": ["message.posted"]}, "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ({"url": "https://ann:pw@store.example/", "types": ["message.posted"]}, "no user"),
        ({"url": URL, "types": ["message.sent"]}, "message.posted"),
        ({"url": URL, "types": []}, "must not be empty"),
        ({"url": URL}, "required"),
        ({"url": URL, "types": ["message.posted"], "secret": "mine"}, "Extra"),
        ({"url": URL, "types": ["message.posted"], "description": "a" * 201}, "200"),
    ],
)
async def test_what_is_wrong_is_said_with_its_field(shop: Caller, body: dict[str, Any], says: str) -> None:
    answer = await shop.call("POST", "/webhooks", body)
    assert problem(answer) == (422, "validation-failed")
    assert says in answer.text


async def test_a_webhook_is_changed_disabled_and_deleted(shop: Caller, conversations: SessionFactory) -> None:
    created = await create(shop)
    path = f"/webhooks/{created['id']}"
    assert problem(await shop.call("PATCH", path, {})) == (422, "validation-failed")
    assert problem(await shop.call("PATCH", path, {"url": "https://127.0.0.2/"})) == (422, "validation-failed")
    changed = (await shop.call("PATCH", path, {"url": f"{URL}/new", "description": "New", "enabled": False})).json()
    assert (changed["url"], changed["enabled"], changed["disabled_reason"]) == (f"{URL}/new", False, "request")
    enabled = (await shop.call("PATCH", path, {"enabled": True, "description": None})).json()
    assert (enabled["enabled"], enabled["disabled_reason"], enabled["description"]) == (True, None, None)
    await shop.call("POST", f"{path}/test")

    assert (await shop.call("DELETE", path)).status_code == 204
    for method, end in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test"), ("POST", "/secret")):
        assert problem(await shop.call(method, path + end)) == (404, "not-found")
    assert (await shop.get("/webhooks"))["items"] == []
    async with transaction(conversations) as session:
        assert await purge_deliveries(session, None, size=10) == 1  # type: ignore[arg-type] # needs no setting
    async with conversations() as session:
        assert (await session.execute(text("select * from webhooks, webhook_deliveries"))).all() == []


async def test_a_repeated_type_counts_once_and_nothing_to_change_is_refused(shop: Caller) -> None:
    created = await create(shop, types=["message.posted", "email.failed", "message.posted"])
    assert created["types"] == ["message.posted", "email.failed"]
    for nothing in ({}, {"url": None}, {"description": None}):
        assert problem(await shop.call("PATCH", f"/webhooks/{created['id']}", nothing))[0] == 422


async def test_there_is_a_bound_on_how_many(shop: Caller) -> None:
    for number in range(20):
        await create(shop, url=f"{URL}/{number}")
    body = {"url": URL, "types": ["message.posted"]}
    assert problem(await shop.call("POST", "/webhooks", body)) == (409, "too-many-webhooks")


async def test_a_test_is_a_delivery_and_deliveries_are_paged(shop: Caller) -> None:
    created = await create(shop)
    path = f"/webhooks/{created['id']}"
    tests = [(await shop.call("POST", f"{path}/test")).json() for _ in range(3)]
    assert {test["type"] for test in tests} == {"webhook.test"}
    assert {test["state"] for test in tests} == {"pending"}
    pages = await shop.pages(f"{path}/deliveries", limit="2")
    assert [[each["id"] for each in page] for page in pages] == [[tests[2]["id"], tests[1]["id"]], [tests[0]["id"]]]
    assert await shop.get(f"{path}/deliveries/{tests[0]['id']}") == tests[0]
    assert (await shop.get(f"{path}/deliveries", state="failed"))["items"] == []
    assert (await shop.get(f"{path}/deliveries", conversation_id=UNKNOWN_ID))["items"] == []
    other = await create(shop)
    answer = await shop.call("GET", f"/webhooks/{other['id']}/deliveries/{tests[0]['id']}")
    assert problem(answer) == (404, "not-found")
    again = (await shop.call("POST", f"{path}/deliveries/{tests[0]['id']}/replay")).json()
    assert again["id"] == tests[0]["id"], "one that is pending is only hurried"


async def test_a_repeated_test_or_replay_sends_once(
    shop: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/webhooks/{(await create(shop))['id']}"

    async def twice(call: str, body: Any = None) -> Any:
        first, again = [await shop.call("POST", path + call, body, key="once") for _ in range(2)]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert "Idempotency-Replayed" not in first.headers
        return first.json()

    test = await twice("/test")
    assert (await twice(f"/deliveries/{test['id']}/replay"))["id"] == test["id"], "it is pending"
    async with transaction(conversations) as session:
        await session.execute(text("update webhook_deliveries set state = 'failed', due_at = null, lane = 0"))
        await session.execute(
            text("""
                insert into webhook_deliveries (webhook_id, event_id, type, at, lane, state)
                select webhook_id, gen_random_uuid(), type, at, lane, state from webhook_deliveries
            """)
        )
    failed = (await shop.get(f"{path}/deliveries"))["items"][::-1]
    replay = f"/deliveries/{failed[1]['id']}/replay"
    assert (await twice(replay))["replay_of"] == failed[1]["id"]
    period = {"from": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(deliveries, "MAX_REPLAYED", 1)
    assert await twice("/replay", period) == {"replayed": 1, "next_from": failed[0]["created_at"]}
    other = await shop.call("POST", f"{path}/replay", period | {"failed_only": True}, key="once")
    assert problem(other) == (422, "idempotency-key-reused")
    assert len((await shop.get(f"{path}/deliveries"))["items"]) == 2 + 1 + 1
    assert (await shop.call("DELETE", path)).status_code == 204
    for call, body in (("/test", None), (replay, None), ("/replay", period)):
        assert problem(await shop.call("POST", path + call, body, key="once")) == (404, "not-found")


async def test_a_range_is_replayed_in_its_order(shop: Caller, conversations: SessionFactory, anna: Caller) -> None:
    created = await create(shop)
    path = f"/webhooks/{created['id']}"
    conversation = (await anna.open())["id"]
    async with transaction(conversations) as session:
        await session.execute(
            text("""
                insert into webhook_deliveries (webhook_id, event_id, type, at, lane, conversation_id, state)
                select :webhook, gen_random_uuid(), 'message.posted', now(), 0, :conversation,
                    case when n <= 3 then 'delivered' else 'failed' end
                from generate_series(1, 5) as n
            """),
            {"webhook": created["id"], "conversation": conversation},
        )
    everything = {"from": "2026-01-01T00:00:00Z"}
    failed = (await shop.call("POST", f"{path}/replay", everything | {"failed_only": True})).json()
    assert failed == {"replayed": 2}
    again = (await shop.call("POST", f"{path}/replay", everything | {"failed_only": True})).json()
    assert again == {"replayed": 0}, "they are pending"
    assert (await shop.call("POST", f"{path}/replay", everything)).json() == {"replayed": 5}
    items = (await shop.get(f"{path}/deliveries"))["items"]
    pending = [each for each in items if each["state"] == "pending"]
    assert len(pending) == 7
    assert [each["due_at"] is not None for each in pending] == [False] * 6 + [True], "the first of the line is due"
    old = [each["id"] for each in items if each["state"] != "pending"]
    assert [each["replay_of"] for each in pending] == [*old, *old[:2]]
    before = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}
    assert (await shop.call("POST", f"{path}/replay", before)).json() == {"replayed": 0}
    for wrong in ({}, {"from": "2026-01-01T00:00:00"}, {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}):
        assert problem(await shop.call("POST", f"{path}/replay", wrong)) == (422, "validation-failed")
