"""Canned replies are filled in for a conversation, in one pass."""

import asyncio
from typing import Any

import pytest

from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller, problem

LATE = {"shortcut": "late", "title": "Parcel is late", "body": "Hello {{customer.first_name}}!", "locale": None}


async def create(admin: Caller, **fields: Any) -> Any:
    """Create a canned reply and return it."""
    answer = await admin.call("POST", "/canned-replies", LATE | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_canned_replies_are_created_replaced_listed_and_deleted(sam: Caller) -> None:
    late = await create(sam)
    assert late == LATE | {"id": late["id"]}
    german = await create(sam, locale="de", shortcut="LATE", body="Hallo")
    assert problem(await sam.call("POST", "/canned-replies", LATE | {"shortcut": "Late"})) == (409, "shortcut-taken")
    replaced = await sam.call("PUT", f"/canned-replies/{late['id']}", LATE | {"shortcut": "zzz"})
    assert replaced.json() == late | {"shortcut": "zzz"}
    taken = await sam.call("PUT", f"/canned-replies/{late['id']}", LATE | {"locale": "de"})
    assert problem(taken) == (409, "shortcut-taken")
    assert await sam.pages("/canned-replies", limit=1) == [[german], [late | {"shortcut": "zzz"}]]
    assert (await sam.call("DELETE", f"/canned-replies/{late['id']}")).status_code == 204
    for method, body in (("DELETE", None), ("PUT", LATE)):
        assert problem(await sam.call(method, f"/canned-replies/{late['id']}", body)) == (404, "not-found")


async def test_a_canned_reply_is_created_once_for_each_key(sam: Caller) -> None:
    answers = await asyncio.gather(*(sam.call("POST", "/canned-replies", LATE, key="k") for _ in range(2)))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    changed = await sam.call("POST", "/canned-replies", LATE | {"title": "Other"}, key="k")
    assert problem(changed) == (422, "idempotency-key-reused")


@pytest.mark.parametrize(
    "change",
    [
        {"shortcut": ""},
        {"shortcut": "two words"},
        {"shortcut": "x" * 51},
        {"title": " "},
        {"body": " "},
        {"body": "Hello {{customer.nmae}}"},
        {"locale": "not a locale"},
        {"unknown": 1},
    ],
)
async def test_invalid_canned_replies_are_rejected(sam: Caller, change: dict[str, Any]) -> None:
    assert problem(await sam.call("POST", "/canned-replies", LATE | change)) == (422, "validation-failed")


async def test_a_shortcut_is_unique_in_its_language_however_that_is_spelled(sam: Caller) -> None:
    created = await sam.call("POST", "/canned-replies", LATE | {"locale": "zh_hant_tw"})
    assert (created.status_code, created.json()["locale"]) == (201, "zh-Hant-TW")
    again = await sam.call("POST", "/canned-replies", LATE | {"locale": "ZH-Hant-TW"})
    assert problem(again) == (409, "shortcut-taken")


async def test_variables_are_filled_in_and_those_without_a_value_are_named(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna {{order.number}} Maria"})
    await shop.call("PUT", "/orders/A-1", ORDER)
    reply = await create(
        sam,
        body="{{customer.first_name}} / {{ customer.name }}: {{order.number}} is {{order.status}}, {{admin.name}} {{x",
    )
    about = (await anna.open(body="Hello?", order_id="A-1"))["id"]
    filled = await sam.get(f"/conversations/{about}/canned-replies/{reply['id']}")
    assert filled == {"body": "Anna / Anna {{order.number}} Maria: 1007 is shipped, Sam {{x", "empty": []}

    nameless = (await ben.open(body="Hello?"))["id"]
    filled = await sam.get(f"/conversations/{nameless}/canned-replies/{reply['id']}")
    assert filled["body"] == " / :  is , Sam {{x"
    assert filled["empty"] == ["customer.first_name", "customer.name", "order.number", "order.status"]
    for path in (f"{UNKNOWN_ID}/canned-replies/{reply['id']}", f"{about}/canned-replies/{UNKNOWN_ID}"):
        assert problem(await sam.call("GET", f"/conversations/{path}")) == (404, "not-found")
