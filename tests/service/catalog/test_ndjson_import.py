"""The bulk import over HTTP has the same effect as PUTs, with any number of lines."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import pytest
from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.api.schemas.store import LineOut
from services.conversations.catalog.ndjson_import import BATCH, MAX_LINE, MAX_UNREADABLE
from services.conversations.identity import sessions as browser_sessions
from services.conversations.rules import Side
from shared.database.engine import REQUEST_BOUNDS, create_engine
from shared.database.transactions import SessionFactory, create_sessions, transaction
from tests.helpers.waiting import eventually
from tests.service.conftest import empty_conversations
from tests.service.helpers.callers import ORDER, Caller, logged, problem
from tests.service.helpers.connected import connect
from tests.service.helpers.recorded_statements import statements

Line = dict[str, Any]
ANSWER = TypeAdapter(LineOut)


def user(record_id: str = "anna", **fields: Any) -> Line:
    return {"type": "user", "id": record_id, **fields}


def order(record_id: str = "A-1", **fields: Any) -> Line:
    return {"type": "order", "id": record_id, **ORDER, **fields}


def lines(records: Iterable[Line]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


async def send(shop: Caller, body: bytes | AsyncIterator[bytes]) -> list[Line]:
    """Send an import; return its answers, each validated against the schema."""
    answer = await shop.call("POST", "/import", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    answers = [json.loads(line) for line in answer.text.splitlines()]
    for one in answers:
        ANSWER.validate_python(one)
    return answers


async def statuses(shop: Caller, *records: Line) -> list[int]:
    return [answer["status"] for answer in await send(shop, lines(records))]


async def state(sessions: SessionFactory) -> Any:
    """Return all users and orders without times, and the log."""
    async with sessions() as session:
        tables = [
            "select to_jsonb(users) - '{created_at,deleted_at,synced_at}'::text[], deleted_at is null from users",
            "select to_jsonb(orders) - '{synced_at,deleted_at}'::text[], deleted_at is null from orders",
            "select user_id, role from sessions",
        ]
        found = [sorted(map(repr, await session.execute(text(table)))) for table in tables]
        return found, await logged(sessions)


async def test_an_answer_never_holds_half_of_a_surrogate_pair(shop: Caller) -> None:
    unknown, unusable = await send(shop, lines([user() | {"\ud800": 1}, user("\udfff")]))
    assert (unknown["status"], unknown["warnings"][0]["loc"]) == (201, ["body", "\ufffd"])
    assert (unusable["status"], unusable["id"]) == (422, "\ufffd")


async def test_each_line_has_an_answer_and_a_rejected_one_does_not_affect_others(sam: Caller, shop: Caller) -> None:
    body = b"\r\n".join(
        [
            lines([order()]).strip(),
            b"",
            lines([user(name="Anna")]).strip(),
            lines([order("A-2", total="x")]).strip(),
            b"x" * (MAX_LINE + 1),
            lines([order(user_id="carl")]).strip(),
            b"   ",
            lines([user("dora")]).strip(),
        ]
    )
    answers = await send(shop, body)

    assert [(one["line"], one["status"], one.get("type"), one.get("id"), one.get("code")) for one in answers] == [
        (1, 201, "order", "A-1", None),
        (3, 200, "user", "anna", None),
        (4, 422, "order", "A-2", "validation-failed"),
        (5, 413, None, None, "payload-too-large"),
        (6, 409, "order", "A-1", "order-of-another-user"),
        (8, 201, "user", "dora", None),
    ]
    put = (await shop.call("PUT", "/orders/A-2", ORDER | {"total": "x"})).json()
    assert {name: put[name] for name in ("detail", "errors")} == {
        name: answers[2][name] for name in ("detail", "errors")
    }
    assert {one["id"] for one in (await sam.get("/users"))["items"]} == {"anna", "dora"}


def anything(seed: int) -> list[Line]:
    """Return random lines about few users and orders, so that many are about the same ones."""
    chance = random.Random(seed)
    days = [None, *(f"2026-01-0{day}T00:00:00Z" for day in range(1, 4))]
    people = ["anna", "ben", "carl", "dora"]
    return [
        user(
            chance.choice(people),
            **chance.choice([{}, {"role": "admin"}, {"role": "customer"}]),
            name=chance.choice([None, "One", "Two"]),
            updated_at=chance.choice(days),
        )
        if chance.random() < 0.6
        else order(
            chance.choice(["A-1", "A-2", "A-3"]),
            user_id=chance.choice(people),
            status=chance.choice(["new", "sent"]),
            items=[{"name": "Teapot", "quantity": n, "unit_price": "1"} for n in range(chance.choice([0, 2]))],
            updated_at=chance.choice(days),
        )
        for _ in range(60)
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_an_import_has_the_effect_of_the_puts_one_after_the_other(
    shop: Caller, conversations: SessionFactory, conversations_engine: AsyncEngine, seed: int
) -> None:
    async def begin() -> None:
        await empty_conversations(conversations_engine)
        await statuses(shop, user("ben"), user("carl", role="admin", name="Carl"), order("A-1", user_id="dora"))
        async with transaction(conversations) as session:
            for side in Side:
                await browser_sessions.begin(session, "carl", side)
        for gone in ("/users/ben", "/orders/A-1"):
            await shop.call("DELETE", gone)

    said = anything(seed)
    await begin()
    one_by_one = []
    for one in said:
        fields = {name: value for name, value in one.items() if name not in {"type", "id"}}
        one_by_one.append((await shop.call("PUT", f"/{one['type']}s/{one['id']}", fields)).status_code)
    put = await state(conversations)

    await begin()
    assert await statuses(shop, *said) == one_by_one
    assert await state(conversations) == put
    assert {200, 201, 409} == set(one_by_one)


async def test_importing_the_same_lines_again_changes_nothing(shop: Caller, conversations: SessionFactory) -> None:
    said = [user(name="Anna", role="admin"), user("ben", email="ben@customer.test"), order()]
    assert await statuses(shop, *said) == [201, 201, 201]
    before = await state(conversations)
    assert await statuses(shop, *said) == [200, 200, 200]
    assert await state(conversations) == before


async def test_concurrent_imports_of_the_same_lines_in_any_order_apply_once(
    shop: Caller, conversations: SessionFactory
) -> None:
    said = [each for n in range(40) for each in (user(f"C-{n}", name="One"), order(f"A-{n}", user_id=f"C-{n}"))]
    orders = [said, said[::-1], random.Random(1).sample(said, len(said)), said[1::2] + said[::2]]
    found = await asyncio.gather(*(send(shop, lines(one)) for one in orders))
    new = [one["id"] for answers in found for one in answers if (one["type"], one["status"]) == ("order", 201)]
    assert sorted(new) == sorted(f"A-{n}" for n in range(40))
    assert {one["status"] for answers in found for one in answers} == {200, 201}
    events = await logged(conversations)
    assert len(events) == 40
    assert {payload["person"]["version"] for _, payload in events} == {2}


async def test_a_batch_that_deadlocks_with_another_writer_is_retried(
    shop: Caller, conversations: SessionFactory
) -> None:
    said = [user("anna", name="One"), user("ben", name="One")]
    await statuses(shop, *said)
    async with transaction(conversations) as other, asyncio.TaskGroup() as group:
        await other.execute(text("select from users where id = 'ben' for update"))
        importing = group.create_task(statuses(shop, user("anna", name="Two"), user("ben", name="Two")))

        async def waits() -> bool:
            async with conversations() as watching:
                waiting = text("select exists(select from pg_locks where not granted)")
                return bool(await watching.scalar(waiting))

        await eventually(waits)
        await other.execute(text("select from users where id = 'anna' for update"))  # ends the import's transaction
        await other.commit()
    assert importing.result() == [200, 200]
    assert [payload["person"]["name"] for _, payload in await logged(conversations)] == ["One"] * 2 + ["Two"] * 2


async def test_a_rejected_order_creates_no_user(shop: Caller, conversations: SessionFactory) -> None:
    await statuses(shop, user(), order())
    before = await state(conversations)
    answers = await send(shop, lines([order(user_id="ben", status="stolen"), order("A-1", user_id="carl")]))
    assert [(one["status"], one["code"]) for one in answers] == [(409, "order-of-another-user")] * 2
    assert await state(conversations) == before


async def test_a_body_may_have_any_size_and_any_chunks(shop: Caller, conversations: SessionFactory) -> None:
    said = [user(f"C-{n}", name="x" * 180) for n in range(2 * BATCH + 1)]
    body = lines(said)
    assert len(body) > 3 * MAX_LINE

    async def pieces() -> AsyncIterator[bytes]:  # so that no length is declared
        for start in range(0, len(body), 50_001):
            yield body[start : start + 50_001]

    answers = await send(shop, pieces())
    assert [(one["line"], one["id"], one["status"]) for one in answers] == [
        (number, f"C-{number - 1}", 201) for number in range(1, len(said) + 1)
    ]
    assert {one["status"] for one in await send(shop, body)} == {200}
    assert len(await logged(conversations)) == len(said)


async def test_only_the_import_accepts_a_large_body(shop: Caller, conversations: SessionFactory) -> None:
    body = lines([user(f"C-{n}") for n in range(4000)])
    for path in ("/%69mport", "/import/", "/users/anna"):
        answer = await shop.api.post(
            httpx2.URL(f"http://chats.test/api/v1/store{path}"), headers=shop.headers, content=body
        )
        assert problem(answer)[0] == 413
    assert await state(conversations) == ([[], [], []], [])


async def test_the_body_of_an_unauthorized_caller_is_not_read(shop: Caller, anna: Caller) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    forged = Caller(shop.api, shop.prefix, {"Authorization": shop.headers["Authorization"] + "x"})
    for caller, refused in ((forged, 401), (Caller(anna.api, shop.prefix, anna.headers), 403)):
        assert problem(await caller.call("POST", "/import", content=never()))[0] == refused


async def test_a_batch_of_a_hundred_lines_takes_as_many_statements_as_one_of_two(
    conversations_engine: AsyncEngine, shop: Caller
) -> None:
    counts = []
    for many in (1, 100):
        said = [each for n in range(many) for each in (user(f"{many}-{n}", name="A"), order(f"{many}-{n}"))]
        for role in ("customer", "admin"):
            async with statements(conversations_engine) as heard:
                await statuses(shop, *(one | ({"role": role} if one["type"] == "user" else {}) for one in said))
            counts.append(len(heard))
    assert counts[:2] == counts[2:]
    assert max(counts) < 13


async def test_a_database_failure_in_the_middle_is_reported_with_the_number_of_imported_lines(
    databases: dict[str, str], conversations: SessionFactory, shop: Caller
) -> None:
    api: httpx2.ASGITransport = shop.api._transport  # type: ignore[assignment]  # noqa: SLF001 - the application of the fixture
    said = [user(f"C-{n}", name="One") for n in range(BATCH)] + [user("last", name="One")]
    await statuses(shop, user("last"))
    async with conversations() as other:
        await other.execute(text("select from users where id = 'last' for update"))
        impatient = REQUEST_BOUNDS | {"lock_timeout": "200ms"}
        engine = create_engine(databases["conversations"], application="tests", bounds=impatient)
        connect(api.app, create_sessions(engine))  # type: ignore[arg-type]
        answer = await shop.call("POST", "/import", content=lines(said))
    assert problem(answer) == (503, "unavailable")
    assert f"{BATCH} lines were imported" in answer.json()["detail"]
    assert "Retry-After" in answer.headers
    assert await statuses(shop, *said) == [200] * (BATCH + 1)
    assert len(await logged(conversations)) == BATCH + 1
    await engine.dispose()


async def test_a_file_of_another_format_stops_getting_an_answer_for_each_line(shop: Caller) -> None:
    body = b"x\n" * 20_000 + lines([user()]) + b"{}\n" * 20_000
    *answers, last = await send(shop, body)
    assert [answer["line"] for answer in answers if answer["status"] == 422] == list(range(1, MAX_UNREADABLE + 1))
    assert [(answer["line"], answer["status"]) for answer in answers[MAX_UNREADABLE:]] == [(20_001, 201)]
    assert (last["line"], last["status"], last["lines_omitted"]) == (40_001, 422, 39_000)


async def test_a_line_with_very_many_errors_has_a_short_answer(shop: Caller) -> None:
    sent: Line = {"type": "order", "id": "A-1", "items": [{}] * 1000, **{f"field{n}": n for n in range(1000)}}
    [refused, taken] = await send(shop, lines([sent, order(**sent)]))
    assert (refused["status"], len(json.dumps(refused)) < 4000) == (422, True)
    assert (taken["status"], taken["items_omitted"], len(json.dumps(taken)) < 4000) == (201, 900, True)


async def test_answers_become_short_when_they_are_much_longer_than_the_lines(shop: Caller) -> None:
    faulty, odd = b'{"type":"order","id":"a"}\n', b'{"type":"user","id":"b","email":"x","locale":"x","zoneinfo":"x"}\n'
    answers = await send(shop, faulty * 6_000 + odd * 10_000)
    assert [len(answers[0]["errors"]), answers[0]["detail"].count("Field required")] == [6, 6]
    assert [answer["line"] for answer in answers] == list(range(1, 16_001))
    assert [answer["status"] for answer in answers] == [422] * 6_000 + [201] + [200] * 9_999
    assert answers[5_999]["detail"].startswith("user_id: Field required")
    assert "errors" not in answers[5_999]
    assert answers[-1]["warnings"] == [{"loc": ["body"], "msg": "3 warnings, too many to show"}]
    assert len(json.dumps(answers)) < 7 * len(faulty * 6_000 + odd * 10_000)


async def test_when_the_client_disconnects_committed_lines_stay(shop: Caller, conversations: SessionFactory) -> None:
    api: httpx2.ASGITransport = shop.api._transport  # type: ignore[assignment]  # noqa: SLF001 - the application of the fixture
    coming = iter(
        [
            {"type": "http.request", "body": lines([user(f"C-{n}") for n in range(BATCH + 1)]), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    path = b"/api/v1/store/import"
    headers = [(b"authorization", shop.headers["Authorization"].encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
    }
    scope |= {"headers": headers, "scheme": "http", "server": ("chats.test", 80), "client": ("127.0.0.1", 1)}
    said: list[Any] = []

    async def receive() -> Any:
        return next(coming)

    async def send_message(message: Any) -> None:
        said.append(message)

    await api.app(scope, receive, send_message)
    assert said[0]["status"] == 400
    async with conversations() as session:
        assert await session.scalar(text("select count(*) from users")) == BATCH
