"""Lists: all pages together hold every row once, and a cursor works only for its own list."""

import base64
import json
from typing import Any

import pytest

from services.conversations.rules import Side
from shared.paging import encode_cursor
from tests.service.helpers.callers import ORDER, Caller, problem


async def open_conversations(anna: Caller, count: int) -> list[str]:
    return [(await anna.open(subject=f"Question {n}"))["id"] for n in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
async def test_the_pages_of_a_list_hold_every_row_once_in_order(anna: Caller, sam: Caller, limit: int) -> None:
    created = await open_conversations(anna, 6)
    for caller, params in ((anna, {}), (sam, {}), (sam, {"sort": "waiting"})):
        pages = await caller.pages("/conversations", limit=limit, **params)
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        found = [item["id"] for page in pages for item in page]
        assert found == (created if params else created[::-1])


async def test_a_page_holds_25_rows_by_default(anna: Caller) -> None:
    await open_conversations(anna, 26)
    assert [len(page) for page in await anna.pages("/conversations")] == [25, 1]


async def test_a_list_without_rows_is_one_empty_page(anna: Caller, sam: Caller) -> None:
    for caller, path in ((anna, "/conversations"), (anna, "/orders"), (sam, "/conversations")):
        assert await caller.get(path) == {"items": [], "next_cursor": None}


async def test_messages_are_paged_in_both_directions_and_after_a_number(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="number 1"))["id"]
    for n in range(2, 6):
        await sam.post(conversation, f"number {n}")
    path = f"/conversations/{conversation}/messages"

    async def numbers(caller: Caller, **params: Any) -> list[int]:
        return [item["number"] for page in await caller.pages(path, limit=2, **params) for item in page]

    for caller in (anna, sam):
        assert await numbers(caller) == await numbers(caller, order="asc") == [1, 2, 3, 4, 5]
        assert await numbers(caller, order="desc") == [5, 4, 3, 2, 1]
        assert await numbers(caller, after=2) == [3, 4, 5]
        assert await numbers(caller, after=2, order="desc") == [5, 4, 3]
        assert await numbers(caller, after=5) == await numbers(caller, after=2**31 - 1) == []


async def test_orders_and_customers_are_paged(anna: Caller, sam: Caller, shop: Caller) -> None:
    for n in range(5):
        placed = f"2026-01-0{n // 2 + 1}T00:00:00Z"  # some at the same time
        await shop.call("PUT", f"/orders/A-{n}", ORDER | {"placed_at": placed})
        await shop.call("PUT", f"/users/u{n}", {"name": "Ann"})
    orders = [order["id"] for page in await anna.pages("/orders", limit=2) for order in page]
    assert orders == ["A-4", "A-3", "A-2", "A-1", "A-0"]
    users = [user["id"] for page in await sam.pages("/users", limit=2, q="ann") for user in page]
    assert users == ["anna", "u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize("sort", ["activity", "waiting"])
@pytest.mark.parametrize("disturb", ["reply", "write", "status"])
async def test_a_row_never_appears_twice_when_a_list_changes_while_paging(
    anna: Caller, sam: Caller, sort: str, disturb: str
) -> None:
    created = await open_conversations(anna, 6)
    first = await sam.get("/conversations", sort=sort, limit=2)

    for conversation in (created[0], created[-1]):  # one of them is on the first page
        if disturb == "reply":
            await sam.post(conversation)
        elif disturb == "write":
            await anna.post(conversation)
        else:
            await sam.edit(conversation, status="RESOLVED")

    items, cursor = first["items"], first["next_cursor"]
    while cursor:
        page = await sam.get("/conversations", sort=sort, limit=2, cursor=cursor)
        items, cursor = items + page["items"], page["next_cursor"]
    found = [item["id"] for item in items]
    assert len(found) == len(set(found))
    assert {*created[1:-1]} <= {*found}
    if sort == "activity" and disturb != "status":
        newest = (await sam.get("/conversations", limit=2))["items"]
        assert {item["id"] for item in newest} == {created[0], created[-1]}


async def test_a_cursor_of_other_filters_or_another_list_is_rejected(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    created = await open_conversations(anna, 2)
    for n in range(2):
        await shop.call("PUT", f"/orders/A-{n}", ORDER)
        await anna.post(created[0])
        await anna.post(created[1])
    messages = [f"/conversations/{conversation}/messages" for conversation in created]
    lists: list[tuple[Caller, str, dict[str, Any]]] = [
        (anna, "/conversations", {}),
        (anna, "/conversations", {"status": "OPEN"}),
        (anna, "/conversations", {"order_id": "A-1"}),
        (ben, "/conversations", {}),
        (sam, "/conversations", {}),
        (sam, "/conversations", {"sort": "waiting"}),
        (sam, "/conversations", {"status": ["OPEN", "CLOSED"]}),
        (sam, "/conversations", {"user_id": "anna"}),
        (sam, "/conversations", {"order_number": "anna"}),
        (sam, "/conversations", {"unread": "true"}),
        (sam, "/conversations", {"held": "false"}),
        (anna, messages[0], {}),
        (anna, messages[1], {}),
        (anna, messages[0], {"order": "desc"}),
        (anna, messages[0], {"after": 0}),
        (anna, "/orders", {}),
        (ben, "/orders", {}),
        (sam, "/users", {}),
        (sam, "/users", {"q": "anna"}),
    ]
    await ben.get("/unread")  # now there are two customers
    cursors = []
    for caller, path, params in lists:
        page = await caller.get(path, limit=1, **params)
        if page["next_cursor"]:
            cursors.append((page["next_cursor"], caller, path, params))
    assert len(cursors) == 12

    for cursor, *own in cursors:
        for caller, path, params in lists:
            answer = await caller.call("GET", path, params={**params, "cursor": cursor})
            if [caller, path, params] == own:
                assert answer.status_code == 200
            else:
                assert problem(answer) == (422, "validation-failed"), (own, path, params)
                assert answer.json()["errors"][0]["loc"] == ["query", "cursor"]


async def test_the_order_and_repetition_of_filters_do_not_invalidate_a_cursor(anna: Caller, sam: Caller) -> None:
    await open_conversations(anna, 2)
    cursor = (await sam.get("/conversations", limit=1, status=["OPEN", "CLOSED"]))["next_cursor"]
    page = await sam.get("/conversations", limit=1, status=["CLOSED", "OPEN", "CLOSED"], cursor=cursor)
    assert len(page["items"]) == 1


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


FORGED: list[list[str | int]] = [
    [],
    ["2026-01-01T00:00:00+00:00"],
    ["yesterday", "0190b6a0-0000-7000-8000-000000000000"],
    ["9999-12-31T23:59:59-23:59", "0190b6a0-0000-7000-8000-000000000000"],
    ["0001-01-01T00:00:00+23:59", "0190b6a0-0000-7000-8000-000000000000"],
    ["2026-01-01T00:00:00+00:00", "not a uuid"],
    ["2026-01-01T00:00:00+00:00", 7],
    [7, "0190b6a0-0000-7000-8000-000000000000"],
]
FILTERS = ("activity", Side.ADMIN, (), None, None, None, None)


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "====", "é", "\0", "-" * 1001, "null", "[]", encoded(None), encoded([]), encoded({}), encoded("text"),
        encoded(7), base64.urlsafe_b64encode(b"\xff\xfe").decode(), base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"9" * 700).decode(),
        *(encode_cursor(FILTERS, key) for key in FORGED),
    ],
)  # fmt: skip
async def test_an_unreadable_cursor_is_rejected(anna: Caller, sam: Caller, cursor: str) -> None:
    for caller, path in ((sam, "/conversations"), (sam, "/users"), (anna, "/conversations"), (anna, "/orders")):
        answer = await caller.call("GET", path, params={"cursor": cursor})
        assert problem(answer) == (422, "validation-failed")


async def test_the_forged_cursors_have_the_right_filters(sam: Caller) -> None:
    valid = encode_cursor(FILTERS, ["2026-01-01T00:00:00+00:00", "0190b6a0-0000-7000-8000-000000000000"])
    assert await sam.get("/conversations", cursor=valid) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("key", [[-1], [2**31], [10**30], [True, 1], ["1"], [1.5], [None]])
async def test_a_forged_number_in_a_cursor_is_rejected(anna: Caller, key: list[Any]) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    cursor = encode_cursor((conversation, False, None), key)
    answer = await anna.call("GET", f"/conversations/{conversation}/messages", params={"cursor": cursor})
    assert problem(answer) == (422, "validation-failed")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1e3", "ten", "", "9" * 5000])
async def test_a_limit_is_a_number_from_1_to_100(anna: Caller, sam: Caller, limit: str) -> None:
    for caller, path in ((anna, "/conversations"), (anna, "/orders"), (sam, "/conversations"), (sam, "/users")):
        answer = await caller.call("GET", path, params={"limit": limit})
        assert problem(answer) == (422, "validation-failed")
