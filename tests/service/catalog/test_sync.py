"""The store's API, and which of store and token wins."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from sqlalchemy import text

from shared.database.transactions import SessionFactory
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import ORDER, Caller, logged, problem


async def shown(sam: Caller, user_id: str = "anna") -> Any:
    """Return a customer as admins see them; None when there is none."""
    return next((user for user in (await sam.get("/users"))["items"] if user["id"] == user_id), None)


async def test_a_user_is_created_once_and_replaced_by_every_newer_state(sam: Caller, shop: Caller) -> None:
    first = {"name": " Anna ", "email": "Anna@Customer.TEST", "locale": "de-AT", "zoneinfo": "Europe/Vienna"}
    assert (await shop.call("PUT", "/users/anna", first)).status_code == 201
    assert (await shop.call("PUT", "/users/anna", first)).status_code == 200
    assert await shown(sam) == {"id": "anna", "name": "Anna", "email": "Anna@customer.test"}

    assert (await shop.call("PUT", "/users/anna", {"name": "Anna Berg"})).status_code == 200

    assert await shown(sam) == {"id": "anna", "name": "Anna Berg", "email": None}


async def test_a_put_that_changes_nothing_logs_no_event(shop: Caller, conversations: SessionFactory) -> None:
    for _ in range(3):
        await shop.call("PUT", "/users/anna", {"name": "Anna"})
    assert [kind for kind, _ in await logged(conversations)] == ["user.updated"]


async def test_an_older_state_changes_nothing(sam: Caller, shop: Caller) -> None:
    days = [f"2026-01-0{day}T00:00:00Z" for day in range(1, 5)]
    await shop.call("PUT", "/users/anna", {"name": "new", "updated_at": days[2]})
    await shop.call("PUT", "/orders/A-1", ORDER | {"status": "new", "updated_at": days[2]})

    for path, body in (("/users/anna", {"name": "old"}), ("/orders/A-1", ORDER | {"status": "old"})):
        answer = await shop.call("PUT", path, body | {"updated_at": days[1]})
        assert answer.status_code == 200
    assert (await shown(sam))["name"] == "new"
    conversation = (await sam.open(user_id="anna", body="Hello", order_id="A-1"))["id"]
    assert (await sam.peek(conversation))["order"]["status"] == "new"

    # The same time, a newer one (in another zone), and none: each is applied.
    for status, time in (("same", days[2]), ("newer", "2026-01-04T01:00:00+02:00"), ("timeless", None)):
        await shop.call("PUT", "/orders/A-1", ORDER | {"status": status, "updated_at": time})
        assert (await sam.peek(conversation))["order"]["status"] == status


async def test_an_order_before_its_user_creates_the_user_with_only_an_id(sam: Caller, shop: Caller) -> None:
    assert (await shop.call("PUT", "/orders/A-1", ORDER)).status_code == 201
    assert await shown(sam) == {"id": "anna", "name": "anna", "email": None}
    await shop.call("PUT", "/users/anna", {"name": "Anna"})
    assert (await shown(sam))["name"] == "Anna"


async def test_an_order_keeps_its_owner_until_it_is_deleted(anna: Caller, ben: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    answer = await shop.call("PUT", "/orders/A-1", ORDER | {"user_id": "ben"})
    assert problem(answer) == (409, "order-of-another-user")
    assert (await ben.get("/orders"))["items"] == []

    await shop.call("DELETE", "/orders/A-1")
    for status in (201, 200):
        assert (await shop.call("PUT", "/orders/A-1", ORDER | {"user_id": "ben"})).status_code == status
    assert problem(await shop.call("PUT", "/orders/A-1", ORDER)) == (409, "order-of-another-user")
    assert [order["id"] for order in (await ben.get("/orders"))["items"]] == ["A-1"]
    assert (await anna.get("/orders"))["items"] == []


async def test_conversations_keep_the_last_state_of_an_order_under_their_own_customer(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    """An order goes from Anna to Ben, back to Anna and to Ben again."""
    conversations = {}
    for turn, caller in enumerate((anna, ben, anna, ben)):
        user, status = ("anna", "ben")[turn % 2], f"state {turn}"
        assert (await shop.call("PUT", "/orders/A-1", ORDER | {"user_id": user, "status": status})).status_code == 201
        conversations[(await caller.open(order_id="A-1"))["id"]] = user
        last = {"anna": f"state {turn - turn % 2}", "ben": f"state {turn - (turn + 1) % 2}"}
        for conversation, owner in conversations.items():
            order = (await sam.peek(conversation))["order"]
            expected = ("A-1", last[owner], owner != user)
            assert (order["id"], order["status"], order["deleted"]) == expected
        found = (await caller.get("/conversations", order_id="A-1"))["items"]
        assert {talk["id"] for talk in found} == {talk for talk, owner in conversations.items() if owner == user}
        # Nothing else finds them, such as a part of an id of a former state.
        found = [(await sam.get("/conversations", order_id=wanted))["items"] for wanted in ("A-1", "A-", "A_1", "ben")]
        assert [{talk["id"] for talk in items} for items in found] == [set(conversations), set(), set(), set()]
        await shop.call("DELETE", "/orders/A-1")
    for caller in (anna, ben):
        assert (await caller.get("/orders"))["items"] == []
        assert len((await caller.get("/conversations", order_id="A-1"))["items"]) == 2


async def test_a_deleted_order_shows_its_last_state_until_the_store_sends_it_again(anna: Caller, shop: Caller) -> None:
    items = [{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}]
    await shop.call("PUT", "/orders/A-1", ORDER | {"items": items, "url": "https://store.test/orders/1"})
    conversation = await anna.open(order_id="A-1")
    for _ in range(2):
        assert (await shop.call("DELETE", "/orders/A-1")).status_code == 204

    found = await anna.peek(conversation["id"])

    assert found["order"] == conversation["order"] | {"deleted": True}
    assert found["order"]["items"] == items
    answer = await anna.call("POST", "/conversations", {"subject": "Again", "order_id": "A-1"})
    assert problem(answer) == (422, "validation-failed")
    assert (await shop.call("PUT", "/orders/A-1", ORDER)).status_code == 201
    assert (await anna.peek(conversation["id"]))["order"]["deleted"] is False


async def test_an_order_shows_its_current_state(anna: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = await anna.open(order_id="A-1")
    assert (await shop.call("PUT", "/orders/A-1", ORDER | {"status": "delivered"})).status_code == 200
    found = (await anna.peek(conversation["id"]))["order"]
    assert found["status"] == "delivered"
    assert found["synced_at"] > conversation["order"]["synced_at"]


async def test_deleting_something_unknown_is_no_error(shop: Caller) -> None:
    for path in ("/users/nobody", "/orders/nothing"):
        assert (await shop.call("DELETE", path)).status_code == 204


@pytest.mark.parametrize("identity", ["a/b", "a%2Fb", "50%", "a?b#c", "~!@$&'()*+,;=:[]{}|\\^`\"<>", "x" * 255])
async def test_any_visible_ascii_is_a_valid_id(acting_as: As, sam: Caller, shop: Caller, identity: str) -> None:
    path = f"/users/{quote(identity, safe='')}"
    assert (await shop.call("PUT", path, {"name": "Anna"})).json() == {"id": identity}
    assert (await shown(sam, identity))["name"] == "Anna"
    headers = acting_as(identity)
    own = await sam.api.post("/api/v1/conversations", headers=headers, json={"subject": "Mine"})
    assert own.json()["user"]["id"] == identity
    assert [item["id"] for item in (await sam.get("/conversations", user_id=identity))["items"]] == [own.json()["id"]]
    assert (await shop.call("DELETE", path)).status_code == 204
    assert await shown(sam, identity) is None


@pytest.mark.parametrize("identity", ["a%20b", "%00", "%C3%A9", "%FF", "a%0A", "%20", "x" * 256])
async def test_an_id_with_other_characters_is_rejected(shop: Caller, identity: str) -> None:
    for path in (f"/users/{identity}", f"/orders/{identity}"):
        assert problem(await shop.call("DELETE", path)) == (422, "validation-failed")
        assert problem(await shop.call("PUT", path, {})) == (422, "validation-failed")


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "two words"},
        {"user_id": 4.5},
        {"user_id": ""},
        {"total": "59,90"},
        {"total": "NaN"},
        {"total": True},
        {"total": "1" * 16},
        {"currency": "euro"},
        {"currency": 978},
        {"placed_at": "yesterday"},
        {"placed_at": "9999-12-31T23:59:59.999999Z"},
        {"placed_at": 1767225600},
        {"number": None},
        {"number": " \u200b"},
        {"status": []},
    ],
)
async def test_an_invalid_id_or_required_field_is_rejected_and_changes_nothing(
    sam: Caller, shop: Caller, change: dict[str, Any]
) -> None:
    answer = await shop.call("PUT", "/orders/A-1", ORDER | change)
    assert problem(answer) == (422, "validation-failed")
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", *change]]
    missing = {name: value for name, value in ORDER.items() if name not in change}
    assert [error["loc"] for error in (await shop.call("PUT", "/orders/A-1", missing)).json()["errors"]] == [
        ["body", *change]
    ]
    assert await shown(sam) is None


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (
            "/users/anna",
            {"role": "store", "email": "anna@", "locale": "klingon!", "zoneinfo": "America", "nickname": "A"},
        ),
        ("/users/anna", {"email": ["x"], "name": "two\nlines", "locale": "es-DE", "updated_at": 1767225600}),
        ("/orders/A-1", {"url": "javascript:alert(1)", "items": {}, "updated_at": "2026-01-01T00:00:00"}),
        ("/orders/A-1", {"currency": "eur", "number": "x" * 101, "placed_at": "2026-01-02 03:04:05", "total": 1e-11}),
    ],
)
async def test_an_invalid_optional_field_does_not_reject_the_record(
    shop: Caller, path: str, changes: dict[str, Any]
) -> None:
    answer = await shop.call("PUT", path, (ORDER if "orders" in path else {"name": "Anna"}) | changes)
    assert answer.status_code == 201, answer.text
    warnings = answer.json()["warnings"]
    assert sorted(warning["loc"] for warning in warnings) == sorted(["body", name] for name in changes)
    assert all(warning["msg"] for warning in warnings)


@pytest.mark.parametrize(
    "url", ["https://store.test:99999/", "https://store.test:0/", "https://store.test:x/", "https://[store.test/"]
)
async def test_a_link_that_no_browser_opens_is_left_out(shop: Caller, url: str) -> None:
    answer = await shop.call("PUT", "/orders/A-1", ORDER | {"url": url})
    assert answer.json()["warnings"] == [{"loc": ["body", "url"], "msg": "left out: must be an http or https URL"}]


async def test_the_other_fields_of_a_record_with_an_invalid_field_are_saved(
    anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna\u2028Berg", "email": "nonsense", "locale": "es-DE", "x": 1})
    assert await shown(sam) == {"id": "anna", "name": "Anna Berg", "email": None}
    items = [
        {"name": "Tea\npot", "quantity": 2.5, "unit_price": 12.3333333333},
        {"name": "Refund", "quantity": -1, "unit_price": "-5.00"},
        {"name": "Gift", "quantity": 0, "unit_price": 0},
        {"name": "Nothing"},
    ]
    sent = ORDER | {"total": 1299.99, "url": "HTTPS://store.test/1", "items": items, "user_id": "anna"}
    answer = (await shop.call("PUT", "/orders/A-1", sent)).json()
    assert [warning["loc"] for warning in answer["warnings"]] == [
        ["body", "items", 0, "name"],
        ["body", "items", 3, "quantity"],
    ]
    order = (await anna.open(order_id="A-1"))["order"]
    assert (order["total"], order["url"]) == ("1299.99", "HTTPS://store.test/1")
    assert [(item["name"], item["quantity"], item["unit_price"]) for item in order["items"]] == [
        ("Tea pot", 2.5, "12.3333333333"),
        ("Refund", -1, "-5.00"),
        ("Gift", 0, "0"),
    ]
    assert "items_omitted" not in order


async def test_items_after_the_hundredth_are_counted(anna: Caller, shop: Caller) -> None:
    items = [{"name": f"Item {n}", "quantity": 1, "unit_price": "1"} for n in range(103)]
    for status in (201, 200):
        answer = await shop.call("PUT", "/orders/A-1", ORDER | {"items": items})
        assert (answer.status_code, answer.json()["items_omitted"]) == (status, 3)
        assert [warning["loc"] for warning in answer.json()["warnings"]] == [["body", "items"]]
    order = (await anna.open(order_id="A-1"))["order"]
    assert (len(order["items"]), order["items"][-1]["name"], order["items_omitted"]) == (100, "Item 99", 3)


async def test_the_name_of_an_unknown_field_may_hold_half_of_a_surrogate_pair(shop: Caller) -> None:
    unknown = {"\ud800": 1}
    items = [{"name": "Tea", "quantity": 1, "unit_price": "1"} | unknown]
    for path, body, place in (
        ("/users/anna", unknown, ["body"]),
        ("/orders/A-1", ORDER | unknown, ["body"]),
        ("/orders/A-1", ORDER | {"items": items}, ["body", "items", 0]),
    ):
        answer = await shop.call("PUT", path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 201}
        assert [warning["loc"] for warning in answer.json()["warnings"]] == [[*place, "\ufffd"]]


async def test_very_many_warnings_are_counted(shop: Caller) -> None:
    answer = await shop.call("PUT", "/users/anna", {"email": "x", **{f"field{n}": n for n in range(1000)}})
    warnings = answer.json()["warnings"]
    assert (len(warnings), warnings[0]["loc"]) == (21, ["body", "email"])
    assert "981 more" in warnings[-1]["msg"]


async def test_claims_create_a_user_and_update_one_whom_the_store_never_sent(
    api: Any, acting_as: As, sam: Caller
) -> None:
    for name in ("Anna", "Anna Berg", None):
        claims = {"name": name} if name else {"email": "anna@customer.test"}
        await Caller(api, "/api/v1", acting_as("anna", **claims)).get("/unread")
        assert (await shown(sam))["name"] == (name or "Anna Berg")
    assert (await shown(sam))["email"] == "anna@customer.test"


async def test_an_older_token_does_not_undo_a_newer_ones_changes(
    api: Any, conversations: SessionFactory, sam: Caller
) -> None:
    def token(email: str, age: int) -> dict[str, str]:
        now = datetime.now(UTC)
        claims = {"sub": "anna", "role": "customer", "email": email, "aud": "chats"}
        times = {"iat": now - timedelta(seconds=age), "exp": now + timedelta(hours=1)}
        return {"Authorization": f"Bearer {jwt.encode(claims | times, SECRET, 'HS256')}"}

    for email, age in (("middle@x.test", 60), ("old@x.test", 3600), ("new@x.test", 0), ("middle@x.test", 60)):
        await Caller(api, "/api/v1", token(email, age)).get("/unread")
    assert (await shown(sam))["email"] == "new@x.test"
    changes = [kind for kind, event in await logged(conversations) if "anna" in str(event)]
    assert changes == ["user.updated"]


async def test_an_older_state_does_not_restore_a_deleted_user(sam: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna", "updated_at": "2026-05-01T00:00:00Z"})
    await shop.call("DELETE", "/users/anna")
    for year, status in (("2020", 200), ("2026", 201)):
        answer = await shop.call("PUT", "/users/anna", {"name": "Anna", "updated_at": f"{year}-06-01T00:00:00Z"})
        assert answer.status_code == status
        assert (await shown(sam) is None) == (year == "2020")


async def test_claims_only_fill_fields_that_the_store_left_empty(
    api: Any, acting_as: As, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": None})
    for name, email in (("Mallory", "first@customer.test"), ("Mallory", "second@customer.test")):
        await Caller(api, "/api/v1", acting_as("anna", name=name, email=email)).get("/unread")
    assert await shown(sam) == {"id": "anna", "name": "Anna", "email": "first@customer.test"}


async def test_an_empty_name_counts_as_missing(sam: Caller, anna: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/users/anna", {"name": "  "})
    assert (await shown(sam))["name"] == "anna"
    await anna.get("/unread")
    assert (await shown(sam))["name"] == "Anna"


async def test_invalid_claims_count_as_missing(api: Any, acting_as: As, sam: Caller) -> None:
    claims = {"email": "nonsense", "name": "a\0b", "locale": ["en"], "zoneinfo": {"a": 1}}
    await Caller(api, "/api/v1", acting_as("anna", **claims)).get("/unread")
    await Caller(api, "/api/v1", acting_as("anna", name="\ud800", email=7)).get("/unread")
    assert await shown(sam) == {"id": "anna", "name": "anna", "email": None}


async def test_the_stores_own_fields_are_for_admins_only(anna: Caller, sam: Caller, shop: Caller) -> None:
    custom = {"VIP": True, "Phone": "+43 1 234567", "A very long name": "m4rker", "Orders": 12}
    answer = await shop.call("PUT", "/users/anna", {"name": "Anna", "custom": custom | {"Nested": [1]}})
    assert (answer.status_code, [note["loc"] for note in answer.json()["warnings"]]) == (
        201,
        [["body", "custom", "Nested"]],
    )
    found = await shown(sam)
    assert found["custom"] == custom
    assert list(found["custom"]) == list(custom)

    conversation = (await anna.open(body="Hello", order_id=None))["id"]
    for path in ("/conversations", f"/conversations/{conversation}", f"/conversations/{conversation}/messages"):
        assert "m4rker" not in (await anna.call("GET", path)).text
    for q in ("m4rker", "VIP"):
        assert (await anna.get("/conversations", q=q))["items"] == []


async def test_the_stores_own_fields_are_replaced_by_every_newer_state(
    sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    days = [f"2026-01-0{day}T00:00:00Z" for day in range(1, 4)]
    await shop.call("PUT", "/users/anna", {"custom": {"VIP": True}, "updated_at": days[1]})
    await shop.call("PUT", "/users/anna", {"custom": {"VIP": False}, "updated_at": days[0]})
    assert (await shown(sam))["custom"] == {"VIP": True}
    await shop.call("PUT", "/users/anna", {"custom": {"VIP": False}, "updated_at": days[2]})
    assert (await shown(sam))["custom"] == {"VIP": False}
    assert await logged(conversations) == []  # they are in no event

    lines = (
        '{"type": "user", "id": "anna", "custom": {"Phone": "1", "Bad": {}}}\n{"type": "user", "id": "ben"}\n'
        '{"type": "user", "id": "cleo", "custom": {"😀 \\"quoted\\", {braces}": "\\\\ back, slash", "n": null}}\n'
    )
    answer = await shop.call("POST", "/import", content=lines, headers={"Content-Type": "application/x-ndjson"})
    first = json.loads(answer.text.splitlines()[0])
    assert [warning["loc"] for warning in first["warnings"]] == [["body", "custom", "Bad"]]
    assert (await shown(sam))["custom"] == {"Phone": "1"}
    assert "custom" not in await shown(sam, "ben")
    assert (await shown(sam, "cleo"))["custom"] == {'😀 "quoted", {braces}': "\\ back, slash", "n": None}
    await shop.call("PUT", "/users/anna", {"name": "Anna"})
    assert "custom" not in await shown(sam)


async def test_a_deletion_erases_the_stores_own_fields(shop: Caller, conversations: SessionFactory) -> None:
    """Also by the previous release's statement, which does not know them."""
    async with conversations() as session:
        for user_id in ("anna", "ben"):
            await shop.call("PUT", f"/users/{user_id}", {"custom": {"Phone": "1"}})
        await shop.call("DELETE", "/users/anna")
        await session.execute(text("update users set deleted_at = now() where id = 'ben'"))
        rows = await session.execute(text("select custom from users where id in ('anna', 'ben')"))
        assert [row.custom for row in rows] == [None, None]
