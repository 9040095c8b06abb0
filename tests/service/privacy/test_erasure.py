"""The erasure of a person on request: its preview and its receipt."""

import pytest
from sqlalchemy import text

from services.conversations.identity.merging import begin_merge
from services.conversations.messaging.merged_ids import finish_merges
from services.conversations.privacy import erasure
from services.conversations.privacy.erasure import HeldCounts
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import ORDER, Caller, problem
from tests.service.messaging.test_deleting import everything, waiting_for_a_lock

NOTHING = dict.fromkeys(HeldCounts.__dataclass_fields__, 0)


@pytest.fixture
async def _anna(shop: Caller, anna: Caller, sam: Caller) -> None:
    """A customer of whom there is something of each kind."""
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": "anna@customer.test"})
    await shop.call("PUT", "/orders/A-1", ORDER)
    sent, _ = [(await anna.upload(b"x", "x.txt"))["id"] for _ in range(2)]
    conversation = (await anna.open(body="Hello"))["id"]
    await anna.post(conversation, "", attachments=[sent])
    await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "A note"})


@pytest.mark.usefixtures("_anna")
async def test_a_preview_counts_what_is_erased_and_kept_and_changes_nothing(shop: Caller) -> None:
    own = {"profile_fields": 2, "unsent_files": 1}
    said = {"conversations": 1, "messages": 2, "files": 1, "entries": 1}
    preview = await shop.get("/users/anna/erasure-preview")
    assert preview["erased"] == NOTHING | own
    assert preview["kept"] == NOTHING | said | {"orders": 1}
    for _ in range(2):
        preview = await shop.get("/users/anna/erasure-preview", content="true")
        assert preview["erased"] == NOTHING | own | said
        assert preview["kept"] == NOTHING | {"orders": 1}
    assert problem(await shop.call("GET", "/users/nobody/erasure-preview")) == (404, "not-found")


@pytest.mark.usefixtures("_anna")
async def test_a_deletion_has_a_receipt_without_text(shop: Caller, conversations: SessionFactory) -> None:
    preview = await shop.get("/users/anna/erasure-preview", content="true")
    answer = await shop.call("DELETE", "/users/anna?content=true")
    assert answer.status_code == 204
    path = answer.headers["location"].removeprefix("/api/v1/store")
    receipt = await shop.get(path)
    assert receipt["counts"] == preview["erased"]
    assert receipt["erased"] > sum(receipt["counts"][kind] for kind in ("messages", "files", "entries")) > 0
    assert (receipt["user_id"], receipt["content"], receipt["asked_by"], receipt["state"]) == (
        "anna",
        True,
        "shop",
        "done",
    )
    assert receipt["finished_at"] >= receipt["asked_at"]
    again = await shop.call("DELETE", "/users/anna?content=true")
    assert (again.status_code, again.headers["location"]) == (204, answer.headers["location"])
    assert await shop.get(path) == receipt
    async with conversations() as session:
        rows = "\n".join(await session.scalars(text("select t::text from erasures as t")))
    assert "Anna" not in rows
    assert "customer.test" not in rows


@pytest.mark.usefixtures("_anna")
async def test_the_content_that_was_kept_has_a_receipt_of_its_own(shop: Caller) -> None:
    first = await shop.call("DELETE", "/users/anna")
    second = await shop.call("DELETE", "/users/anna?content=true")
    assert first.headers["location"] != second.headers["location"]
    receipt = await shop.get(second.headers["location"].removeprefix("/api/v1/store"))
    assert receipt["counts"] == NOTHING | {"conversations": 1, "messages": 2, "files": 1, "entries": 1}


@pytest.mark.usefixtures("_anna")
async def test_repeating_an_unfinished_deletion_keeps_its_receipt(
    shop: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = await shop.get("/users/anna/erasure-preview", content="true")
    monkeypatch.setattr(erasure, "hide_conversations", _die)
    with pytest.raises(RuntimeError):
        await erasure.erase_user(conversations, "anna", content=True, asked_by="shop")
    monkeypatch.undo()
    for _ in range(2):
        answer = await shop.call("DELETE", "/users/anna?content=true")
    receipt = await shop.get(answer.headers["location"].removeprefix("/api/v1/store"))
    assert receipt["counts"] == preview["erased"]


async def _die(*_: object, **__: object) -> bool:
    raise RuntimeError


async def test_a_user_who_was_never_known_has_no_receipt(shop: Caller) -> None:
    answer = await shop.call("DELETE", "/users/never")
    assert (answer.status_code, "location" in answer.headers) == (204, False)


async def test_a_merger_that_begins_meanwhile_is_completed_first(
    anna: Caller, ben: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for caller in (anna, ben):
        await caller.open(body="A secret")
    completed: list[int] = []

    async def complete(sessions: SessionFactory, user_id: str) -> None:
        completed.append(await finish_merges(sessions, user_id))
        if len(completed) == 1:
            async with transaction(sessions) as session:
                await begin_merge(session, "anna", "ben")

    monkeypatch.setattr(erasure, "finish_merges", complete)
    receipt = await erasure.erase_user(conversations, "ben", content=True, asked_by="shop")
    assert completed == [0, 1]
    assert receipt is not None
    assert (receipt.counts or {})["conversations"] == 2
    assert "A secret" not in await everything(conversations)


async def test_a_deletion_that_waits_for_a_merger_erases_the_person(
    anna: Caller, ben: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    for caller in (anna, ben):
        await caller.open(body="A secret")
    async with transaction(conversations) as session:
        await begin_merge(session, "anna", "ben")
        deleting = await waiting_for_a_lock(conversations, shop.call("DELETE", "/users/anna?content=true"))
    receipt = await shop.get((await deleting).headers["location"].removeprefix("/api/v1/store"))
    assert (receipt["user_id"], receipt["counts"]["conversations"]) == ("ben", 2)
    assert "A secret" not in await everything(conversations)
