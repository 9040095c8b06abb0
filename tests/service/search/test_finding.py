"""What searches find, before and after the indexer has caught up."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from services.conversations.event_log.sequencer import number_events
from services.conversations.search import finding, sources
from services.conversations.search.indexer import index_round
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.service.conftest import As
from tests.service.helpers.callers import ORDER, Caller, problem

Index = Callable[[], Awaitable[None]]


@pytest.fixture(params=["indexed", "not indexed"])
async def index(request: pytest.FixtureRequest, conversations: SessionFactory) -> Index:
    """Number and index everything, or nothing: both must give the same results."""

    async def catch_up() -> None:
        if request.param == "indexed":
            await catch_up_with_log(conversations)

    return catch_up


async def catch_up_with_log(sessions: SessionFactory) -> None:
    """Number all events, and index everything."""
    async with transaction(sessions) as session:
        await number_events(await transaction_driver(session))
    while await index_round(sessions, settle=-1):
        pass


@pytest.fixture
def looks_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the newest two conversations, and at the others only for what the index does not have."""
    for name, value in {"WALK": 2, "WALK_ON": 10, "ENOUGH": 1, "LOOK": 1e9}.items():
        monkeypatch.setattr(finding, name, value)


async def found(caller: Caller, q: str, **filters: Any) -> list[str]:
    """Return the subjects of the conversations that a search finds."""
    return [item["subject"] for item in (await caller.get("/conversations", q=q, **filters))["items"]]


async def test_words_of_subject_messages_and_order_are_found_together_with_where(
    anna: Caller, sam: Caller, shop: Caller, index: Index
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna Berg", "email": "anna@customer.test"})
    await shop.call("PUT", "/orders/o-1", ORDER | {"number": "SO-2024-00417"})
    parcel = await anna.open(subject="Blue hoodie", body="It has a hole in the sleeve.", order_id="o-1")
    await anna.open(subject="Another one", body="All is fine.")
    await sam.post(parcel["id"], "We will refund the café voucher, too.")
    await index()
    for caller in (anna, sam):
        for q, place, excerpt in (
            ("sleeve", "message", "It has a hole in the sleeve."),
            ("CAFE", "message", "We will refund the café voucher, too."),
            ("hoodie", "subject", "Blue hoodie"),
            ("#so-2024-00417", "order", "SO-2024-00417"),
            ("00417", "order", "SO-2024-00417"),
            ("hoodie sleeve refund", "message", "We will refund the café voucher, too."),
            ('"hole in the sleeve"', "message", "It has a hole in the sleeve."),
            ("vouch", "message", "We will refund the café voucher, too."),
        ):
            [item] = (await caller.get("/conversations", q=q))["items"]
            assert item["id"] == parcel["id"], q
            match = item["match"]
            assert (match["in"], match["excerpt"]) == (place, excerpt), q
            assert match["hits"], q
            assert ("number" in match) == (place == "message")
        for q in ("sleeves", '"sleeve hole"', "hoodie fine", "nowhere", "vouch hole", "hoodie -refund", "!!!"):
            assert await found(caller, q) == [], q
        assert await found(caller, "-hoodie") == ["Another one"]
        assert await found(caller, '-"all was" one') == ["Another one"]
    [item] = (await sam.get("/conversations", q="refund cafe"))["items"]
    match = item["match"]
    assert match["number"] == 2
    assert [match["excerpt"][start : start + length] for start, length in match["hits"]] == ["refund", "café"]


async def test_admins_find_customers_by_name_address_and_id_and_customers_do_not(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, index: Index
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Johanna Bergström", "email": "jo.berg@customer.test"})
    await shop.call("PUT", "/users/ben", {"name": "田中"})
    await anna.open(subject="Hoodie", body="It is torn.")
    await ben.open(subject="Jacket", body="It is torn.")
    await index()
    for q, excerpt, hits in (
        ("bergstrom", "Johanna Bergström", ["Bergström"]),
        ("hanna", "Johanna Bergström", ["hanna"]),
        ('"johanna berg"', "Johanna Bergström", []),
        ("jo.berg@customer.test", "jo.berg@customer.test", ["jo.berg@customer.test"]),
        ("anna", "anna", ["anna"]),
    ):
        [item] = (await sam.get("/conversations", q=q))["items"]
        match = item["match"]
        assert (item["subject"], match["in"], match["excerpt"]) == ("Hoodie", "customer", excerpt), q
        shown = [match["excerpt"][start : start + length] for start, length in match["hits"]]
        assert not hits or shown == hits, q
    assert await found(sam, "bergstrom torn") == ["Hoodie"]
    assert await found(sam, "田中") == ["Jacket"]
    assert await found(sam, "torn -bergstrom") == ["Jacket"]
    assert await found(anna, "bergstrom") == []
    assert await found(anna, "torn -bergstrom") == ["Hoodie"]
    assert await found(anna, "torn") == ["Hoodie"]
    await shop.call("DELETE", "/users/anna")
    assert await found(sam, "bergstrom") == []


async def test_admins_find_the_person_by_a_whole_id_that_was_merged_into_theirs(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, index: Index
) -> None:
    await shop.call("PUT", "/users/Guest_17", {"name": "A guest"})
    await ben.open(subject="Jacket", body="It is torn.")
    await anna.open(subject="Hoodie", body="It is torn.")
    for old in ("Guest_17", "g7"):
        assert (await shop.call("POST", f"/users/{old}/merge", {"into": "ben"})).status_code == 200
    await index()
    for q, excerpt in (("Guest_17", "Guest_17"), ("torn g7", "It is torn."), ("Guest_17 g7", "Guest_17")):
        [item] = (await sam.get("/conversations", q=q))["items"]
        assert (item["subject"], item["match"]["excerpt"]) == ("Jacket", excerpt), q
    assert await found(sam, "torn -Guest_17") == ["Hoodie"]
    assert await found(sam, "Guest_1") == []
    assert await found(ben, "Guest_17") == []


async def test_filters_combine_with_a_search(anna: Caller, sam: Caller, index: Index) -> None:
    first = await anna.open(subject="First hoodie", body="Hello")
    await anna.open(subject="Second hoodie", body="Hello")
    await anna.open(subject="Jacket", body="Hello")
    await sam.edit(first["id"], status="RESOLVED")
    await index()
    assert await found(sam, "hoodie", status="RESOLVED") == ["First hoodie"]
    assert await found(sam, "hoodie", status=["OPEN", "RESOLVED"], unread="true") == ["Second hoodie", "First hoodie"]
    assert await found(sam, "hoodie", unread="false") == []
    assert await found(sam, "hoodie", user_id="anna", status="OPEN") == ["Second hoodie"]
    assert await found(sam, "hoodie", user_id="ben") == []
    assert await found(anna, "hoodie", status="OPEN") == ["Second hoodie"]


async def test_pages_of_a_search_have_every_result_once(anna: Caller, sam: Caller, index: Index) -> None:
    for number in range(7):
        await anna.open(subject=f"Hoodie {number}", body="Hello there")
        await anna.open(subject=f"Jacket {number}")
    await index()
    expected = [f"Hoodie {number}" for number in reversed(range(7))]
    for caller in (anna, sam):
        for q in ("hoodie", "hello hood", '"hello there"'):
            pages = await caller.pages("/conversations", q=q, limit=3)
            assert [item["subject"] for page in pages for item in page] == expected
            assert [len(page) for page in pages] == [3, 3, 1]
    page = await sam.get("/conversations", q="hoodie", limit=3)
    answer = await sam.call("GET", "/conversations", params={"q": "jacket", "cursor": page["next_cursor"]})
    assert problem(answer) == (422, "validation-failed")


async def test_a_customer_finds_nothing_of_others(anna: Caller, ben: Caller, sam: Caller, index: Index) -> None:
    await anna.open(subject="Hoodie", body="secret")
    await index()
    assert await found(ben, "secret") == []
    assert await found(ben, "-secret") == []
    assert await found(sam, "secret") == ["Hoodie"]


async def test_an_admins_name_and_address_are_in_no_document(anna: Caller, sam: Caller, index: Index) -> None:
    conversation = await anna.open(subject="Hoodie", body="Hello")
    await sam.post(conversation["id"], "It is on its way.")
    await index()
    assert await found(anna, "way") == ["Hoodie"]
    for q in ("sam", "sam@store.test", "store"):
        assert await found(anna, q) == []
        assert await found(anna, f"-{q}") == ["Hoodie"]


async def test_a_search_that_is_too_long_or_sorted_says_why(anna: Caller, sam: Caller) -> None:
    for caller, params, words in (
        (anna, {"q": "x" * 201}, "at most 200 characters"),
        (sam, {"q": "a b c d e f g h i"}, "at most 8 words"),
        (sam, {"q": '"a b c d" e f g h i'}, "at most 8 words"),
        (sam, {"q": "hoodie", "sort": "waiting"}, "leave out sort, or q"),
    ):
        answer = await caller.call("GET", "/conversations", params=params)
        assert problem(answer) == (422, "validation-failed")
        assert words in answer.json()["detail"]
    assert (await anna.get("/conversations", q=" "))["items"] == []
    assert await found(sam, '" - -- "" „“ a b c d e f g h') == []


@pytest.mark.usefixtures("looks_further")
async def test_a_name_of_too_many_customers_is_found_in_the_newest_conversations(
    api: httpx2.AsyncClient, acting_as: As, sam: Caller, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PEOPLE", 2)
    for count in range(5):
        person = Caller(api, "/api/v1", acting_as(f"c-{count}", name=f"Anna {count}"))
        await person.open(subject=f"Hoodie {count}", body="It is torn")
    await Caller(api, "/api/v1", acting_as("d", name="Ben")).open(subject="Jacket", body="It is torn")
    await index()
    assert await found(sam, "anna") == [f"Hoodie {count}" for count in (4, 3, 2, 1, 0)]
    assert await found(sam, "anna torn") == [f"Hoodie {count}" for count in (4, 3, 2, 1, 0)]
    assert await found(sam, "torn -anna") == ["Jacket"]


async def test_a_search_that_takes_too_long_says_so(anna: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    await anna.open(body="hello")
    monkeypatch.setattr(finding, "DEADLINE", 0.0001)
    answer = await anna.call("GET", "/conversations", params={"q": "hello"})
    assert problem(answer) == (503, "search-too-slow")
    monkeypatch.undo()
    assert len(await found(anna, "hello")) == 1


async def test_admins_find_notes_and_customers_never_do(
    anna: Caller, sam: Caller, index: Index, conversations: SessionFactory
) -> None:
    hoodie = await anna.open(subject="Hoodie", body="It is torn")
    await anna.open(subject="Jacket", body="It is torn")
    await index()
    note = (await sam.call("POST", f"/conversations/{hoodie['id']}/notes", {"body": "A goodwill voucher?"})).json()
    for _ in range(2):
        [item] = (await sam.get("/conversations", q="voucher torn goodwill"))["items"]
        match = item["match"]
        assert (match["in"], match["note_id"], match["excerpt"]) == ("note", note["id"], "A goodwill voucher?")
        assert match["hits"] == [[2, 8], [11, 7]]
        assert await found(sam, "torn -voucher") == ["Jacket"]
        assert await found(sam, '"goodwill voucher"') == ["Hoodie"]
        assert await found(sam, '"voucher goodwill"') == []
        for q in ("voucher", "vouch", '"goodwill voucher"', "torn voucher"):
            assert await found(anna, q) == []
        for q in ("-voucher", "torn -voucher", '-"goodwill voucher"'):
            assert await found(anna, q) == ["Jacket", "Hoodie"]
        await index()
    deleted = await sam.call("DELETE", f"/conversations/{hoodie['id']}/notes/{note['id']}")
    assert deleted.status_code == 204
    for _ in range(2):
        assert await found(sam, "voucher") == []
        assert await found(sam, "torn -voucher") == ["Jacket", "Hoodie"]
        async with conversations() as session:
            assert "voucher" not in "".join(await session.scalars(text("select tsv::text from note_search")))
        await index()


@pytest.mark.usefixtures("looks_further")
async def test_notes_of_too_many_conversations_are_found_in_the_newest_ones(
    anna: Caller, sam: Caller, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "NOTED", 1)
    for count in range(4):
        conversation = await anna.open(subject=f"Hoodie {count}", body="It is torn")
        await sam.call("POST", f"/conversations/{conversation['id']}/notes", {"body": "A goodwill voucher?"})
    await index()
    assert await found(sam, "voucher") == [f"Hoodie {count}" for count in (3, 2, 1, 0)]
    assert await found(sam, "torn voucher") == [f"Hoodie {count}" for count in (3, 2, 1, 0)]


async def test_admins_find_customers_by_the_stores_own_fields_until_they_are_erased(
    anna: Caller, sam: Caller, shop: Caller, index: Index
) -> None:
    custom = {"Phone": "+43 664 123 45 67", "Tier": "Größte", "Points": 48213, "VIP": True, "Balance": 12.5}
    await shop.call("PUT", "/users/anna", {"name": "Anna", "custom": custom})
    conversation = (await anna.open(subject="Hoodie", body="Where is it?"))["id"]
    await index()
    for q, excerpt in (
        ("+43 664 123", "+43 664 123 45 67"),
        ("66412", None),
        ("größ", "Größte"),
        ("GROSSTE", "Größte"),
        ("48213", "48213"),
        ("12.5", "12.5"),
        ("4821 where", "Where is it?"),
        ("true", None),
        ("Phone", None),
        ("-48213 hoodie", None),
    ):
        found = (await sam.get("/conversations", q=q))["items"]
        assert [item["match"]["excerpt"] for item in found] == ([excerpt] if excerpt else []), q
        if excerpt and "Where" not in excerpt:
            assert found[0]["match"]["in"] == "customer"
            assert (await anna.get("/conversations", q=q))["items"] == []
    await shop.call("PUT", "/users/anna", {"name": "Anna", "custom": {"Phone": "+49 30 987"}})
    assert [item["id"] for item in (await sam.get("/conversations", q="+49 30 987"))["items"]] == [conversation]
    await shop.call("DELETE", "/users/anna")
    assert (await sam.get("/conversations", q="987"))["items"] == []


@pytest.mark.parametrize(
    ("walk", "walk_on", "look", "recent"),
    [(1, 1, 0, 1), (5, 5, 0, 1), (2, 4, 0, 1), (2, 10, 0, 1), (2, 10, 9, 1), (2, 2, 0, 4), (1, 2, 9, 10)],
)
async def test_a_word_that_the_newest_conversations_lack_is_found_by_the_index(
    anna: Caller,
    sam: Caller,
    conversations: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    walk: int,
    walk_on: int,
    look: int,
    recent: int,
) -> None:
    monkeypatch.setattr(finding, "WALK", walk)
    monkeypatch.setattr(finding, "WALK_ON", walk_on)
    monkeypatch.setattr(finding, "LOOK", look)
    monkeypatch.setattr(finding, "MANY", 1)
    monkeypatch.setattr(finding, "RECENT", recent)
    monkeypatch.setattr(finding, "WALK_OF_FEW", walk)
    for number in range(5):
        hoodie = await anna.open(subject=f"Hoodie {number}", body="It is torn")
        await sam.edit(hoodie["id"], status="RESOLVED" if number % 2 else "CLOSED")
        await anna.open(subject=f"Jacket {number}", body="It is fine")
    await catch_up_with_log(conversations)
    expected = [f"Hoodie {number}" for number in reversed(range(5))]
    for caller in (anna, sam):
        for q in ("hoodie", "torn hood", '"is torn"', "torn -fine"):
            pages = await caller.pages("/conversations", q=q, limit=2)
            assert [item["subject"] for page in pages for item in page] == expected, q
        assert await found(caller, "nowhere") == []
    assert await found(sam, "torn", status="CLOSED") == ["Hoodie 4", "Hoodie 2", "Hoodie 0"]
    assert await found(sam, "torn", status=["CLOSED", "RESOLVED"], unread="true") == expected
    assert await found(sam, "torn", unread="false") == []


@pytest.mark.parametrize(
    "q", ["a", "5", "茶", "hello a", "-a", "hello -a", '"a"', "ﬀ", "-", '"', '""', "hello\x00a", "x" * 200]
)
async def test_short_and_odd_searches_are_answered(anna: Caller, sam: Caller, q: str) -> None:
    await anna.open(body="Hello a 茶")
    for caller in (anna, sam):
        assert (await caller.call("GET", "/conversations", params={"q": q})).status_code == 200


async def test_documents_and_notes_are_found_by_their_index_however_dear_it_is_to_the_planner(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    parcel = await anna.open(subject="Blue hoodie", body="It has a hole in the sleeve.")
    await sam.call("POST", f"/conversations/{parcel['id']}/notes", {"body": "Another sleeve?"})
    await catch_up_with_log(conversations)
    for table, function in (
        ("conversation_search", "find_documents('sleeve')"),
        ("note_search", "find_notes('sleeve', 5)"),
    ):
        whole_reads = text(f"select seq_scan from pg_stat_xact_user_tables where relname = '{table}'")  # noqa: S608 - ours
        async with transaction(conversations) as session:
            await session.execute(text("set local random_page_cost = 10000"))  # as if its list of new entries were long
            before = await session.scalar(whole_reads) or 0
            found = await session.scalars(text(f"select {function}"))
            assert [str(conversation_id) for conversation_id in found] == [parcel["id"]]
            assert await session.scalar(whole_reads) == before
            await session.execute(text(f"select from {table} where tsv @@ 'sleeve'"))
            assert await session.scalar(whole_reads) == before + 1
