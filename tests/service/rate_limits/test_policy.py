"""Rate limits for writing: at their boundary, across processes, and without Redis."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from services.conversations.errors import RateLimited
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.policy import LimitedAction, Limits, network_of
from services.conversations.settings import ApiSettings
from shared.api.app_state import AppState
from shared.api.repeating import RepeatRequests
from shared.auth.principal import Principal
from shared.database.transactions import RolledBack, SessionFactory
from shared.settings import Role
from tests.service.conftest import As
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.html import Page
from tests.service.helpers.limited import REDIS_TIMEOUT, SECRET, processes
from tests.service.helpers.valkey_process import Valkey

CUSTOMER_PAGES = "/dashboard/messages/"
ADMIN_PAGES = "/admin/dashboard/conversation/"


class People:
    """The callers of one process."""

    def __init__(self, client: httpx2.AsyncClient, acting_as: As) -> None:
        self.client = client
        self.anna = Caller(client, "/api/v1", acting_as("anna"))
        self.ben = Caller(client, "/api/v1", acting_as("ben"))
        self.sam = Caller(client, "/api/v1/admin", acting_as("sam", "admin"))


async def write(caller: Caller, conversation: str, *, key: str | None = None, body: str = "Hello?") -> Any:
    return await caller.call("POST", f"/conversations/{conversation}/messages", {"body": body}, key=key)


def refused(answer: httpx2.Response, within: int = 60) -> int:
    """Check that a response is a rate limit error; return its Retry-After in seconds."""
    assert problem(answer) == (429, "rate-limited")
    seconds = int(answer.headers["Retry-After"])
    assert 1 <= seconds <= within
    return seconds


async def test_a_customers_messages_are_counted_across_processes(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=4) as clients:
        one, other = (People(client, acting_as) for client in clients)
        opened = (await one.anna.open())["id"]
        for people in (one, other, one, other):
            assert (await write(people.anna, opened)).status_code == 201
        for people in (one, other):
            refused(await write(people.anna, opened))
        assert (await one.anna.peek(opened))["message_count"] == 4


async def test_concurrent_messages_do_not_exceed_the_limit(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=5) as clients:
        peoples = [People(client, acting_as) for client in clients]
        opened = (await peoples[0].anna.open())["id"]
        answers = await asyncio.gather(*(write(people.anna, opened) for people in peoples for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [201] * 5 + [429] * 19


async def test_a_request_that_is_handled_again_after_a_deadlock_counts_once(valkey: Valkey) -> None:
    redis = FailopenRedis(valkey.url, REDIS_TIMEOUT)
    settings = ApiSettings(
        conversations_database_url="postgresql://not.used/", auth_secret=[SECRET], limit_messages_per_minute=2
    )
    limits, handled = Limits(settings, redis), 0

    async def app(*_: object) -> None:
        nonlocal handled
        handled += 1
        await limits.allow(Principal("anna", Role.CUSTOMER), [LimitedAction.MESSAGE])
        if handled < 4:
            raise RolledBack

    async def receive() -> Message:
        raise AssertionError

    async def send(_: Message) -> None:
        raise AssertionError

    repeating = RepeatRequests(app, AppState())
    for _ in range(2):
        await repeating({"type": "http", "method": "POST"}, receive, send)
    assert handled == 5
    with pytest.raises(RateLimited):
        await repeating({"type": "http", "method": "POST"}, receive, send)
    await redis.client.aclose()


async def test_limits_of_different_customers_and_of_admins_are_independent(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    limits: dict[str, Any] = {"limit_messages_per_minute": 1, "limit_admin_messages_per_minute": 2}
    async with processes(conversations, valkey.url, **limits) as clients:
        one, other = (People(client, acting_as) for client in clients)
        annas, bens = (await one.anna.open(body="Hello?"))["id"], (await one.ben.open(body="Hello?"))["id"]
        refused(await write(other.anna, annas))
        refused(await write(other.ben, bens))
        assert (await write(one.sam, annas)).status_code == 201
        assert (await write(other.sam, bens)).status_code == 201
        refused(await write(one.sam, annas))


async def test_an_admins_limit_counts_all_messages_but_no_status_change(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_admin_messages_per_minute=3) as [client, _]:
        people = People(client, acting_as)
        opened = (await people.anna.open())["id"]
        new = {"user_id": "anna", "subject": "Hello", "body": "Hello."}
        assert (await people.sam.call("POST", "/conversations", new)).status_code == 201
        assert (await write(people.sam, opened)).status_code == 201
        await people.sam.edit(opened, reply_body="Hello?", status="CLOSED")
        refused(await people.sam.call("POST", "/conversations", new))
        refused(await write(people.sam, opened))
        refused(await people.sam.call("PATCH", f"/conversations/{opened}", {"reply_body": "Hello?"}))
        assert (await people.sam.edit(opened, status="RESOLVED"))["status"] == "RESOLVED"


async def test_a_customers_conversations_are_counted_by_the_day(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_conversations_per_day=2) as clients:
        one, other = (People(client, acting_as) for client in clients)
        opened = (await one.anna.open())["id"]
        await other.anna.open(body="Hello?")
        new = {"subject": "Another", "body": "Hello?"}
        assert refused(await one.anna.call("POST", "/conversations", new), within=86_400) > 86_000
        assert (await write(one.anna, opened)).status_code == 201
        await one.ben.open()


async def test_a_first_message_counts_unless_its_conversation_is_rejected(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    limits: dict[str, Any] = {"limit_conversations_per_day": 1, "limit_messages_per_minute": 2}
    async with processes(conversations, valkey.url, **limits) as [client, _]:
        people = People(client, acting_as)
        opened = (await people.anna.open(body="Hello?"))["id"]
        for _ in range(3):
            new = {"subject": "Another", "body": "Hello?"}
            refused(await people.anna.call("POST", "/conversations", new), within=86_400)
        assert (await write(people.anna, opened)).status_code == 201
        refused(await write(people.anna, opened))


async def test_zero_means_no_limit(conversations: SessionFactory, valkey: Valkey, acting_as: As) -> None:
    none: dict[str, Any] = dict.fromkeys(
        ("limit_messages_per_minute", "limit_conversations_per_day", "limit_admin_messages_per_minute"), 0
    )
    async with processes(conversations, valkey.url, **none) as [client, _]:
        people = People(client, acting_as)
        opened = [await people.anna.open() for _ in range(55)][-1]["id"]
        assert {(await write(people.anna, opened)).status_code for _ in range(65)} == {201}


async def test_a_replay_is_neither_rejected_nor_counted(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=2) as clients:
        one, other = (People(client, acting_as) for client in clients)
        opened = (await one.anna.open())["id"]
        first = await write(one.anna, opened, key="first")
        for _ in range(3):
            assert (await write(other.anna, opened, key="first")).json() == first.json()
        assert (await write(one.anna, opened, key="second")).status_code == 201
        refused(await write(one.anna, opened, key="third"))
        again = await write(other.anna, opened, key="first")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")


async def test_a_known_key_lets_no_new_message_through(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=1) as [client, _]:
        people = People(client, acting_as)
        opened, another = (await people.anna.open())["id"], (await people.anna.open())["id"]
        assert (await write(people.anna, opened, key="mine")).status_code == 201
        assert problem(await write(people.anna, opened, key="mine", body="Other words"))[1] == "idempotency-key-reused"
        refused(await write(people.anna, another, key="mine"))
        bens = (await people.ben.open())["id"]
        assert (await write(people.ben, bens, key="mine")).status_code == 201
        refused(await write(people.ben, bens))
        assert (await people.anna.peek(opened))["message_count"] == 1


async def test_rejected_requests_do_not_extend_the_wait(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=1) as [client, _]:
        people = People(client, acting_as)
        opened = (await people.anna.open(body="Hello?"))["id"]
        waits = [refused(await write(people.anna, opened)) for _ in range(10)]
        assert waits == sorted(waits, reverse=True)


async def test_invalid_and_forbidden_requests_are_not_counted(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=1) as [client, _]:
        people = People(client, acting_as)
        opened = (await people.anna.open())["id"]
        assert (await write(people.anna, opened, body=" ")).status_code == 422
        stranger = Caller(client, "/api/v1")
        assert (await write(stranger, opened)).status_code == 401
        posted = await people.sam.api.post(
            f"/api/v1/conversations/{opened}/messages", json={"body": "Hello"}, headers=people.sam.headers
        )
        assert posted.status_code == 403
        assert (await write(people.anna, opened)).status_code == 201


async def test_without_redis_all_requests_pass(conversations: SessionFactory, valkey: Valkey, acting_as: As) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=1) as [client, _]:
        people = People(client, acting_as)
        opened = (await people.anna.open(body="Hello?"))["id"]
        refused(await write(people.anna, opened))
        await valkey.kill()
        assert {(await write(people.anna, opened)).status_code for _ in range(5)} == {201}


async def test_the_customers_pages_show_the_limit_and_keep_what_was_typed(
    conversations: SessionFactory, valkey: Valkey
) -> None:
    limits: dict[str, Any] = {"limit_messages_per_minute": 1, "limit_conversations_per_day": 1}
    async with processes(conversations, valkey.url, **limits) as [client, _]:
        browser = Browser(client)
        await browser.sign_in("anna")
        opened = await submit(browser, f"{CUSTOMER_PAGES}new/", subject="Where is it?", body="My parcel.")
        assert opened.status_code == 303
        answer = await submit(browser, opened.headers["Location"], body="And another thing.")
        assert "sending messages too quickly" in error_of(answer, "And another thing.")
        answer = await submit(browser, f"{CUSTOMER_PAGES}new/", subject="Another", body="Something else.")
        words = error_of(answer, "Something else.", within=86_400)
        assert "limit for new conversations" in words
        assert Page(answer).by_id("subject")["value"] == "Another"


async def test_the_admins_pages_show_the_limit_and_keep_what_was_typed(
    conversations: SessionFactory, valkey: Valkey, acting_as: As
) -> None:
    async with processes(conversations, valkey.url, limit_admin_messages_per_minute=1) as [client, _]:
        opened = (await People(client, acting_as).anna.open())["id"]
        browser = Browser(client)
        await browser.sign_in("sam", "admin")
        thread = f"{ADMIN_PAGES}{opened}/"
        assert (await submit(browser, thread, reply_body="It is on its way.")).status_code == 303
        answer = await submit(browser, thread, reply_body="And another thing.")
        assert "sending messages too quickly" in error_of(answer, "And another thing.")
        assert (await submit(browser, thread, status="CLOSED")).status_code == 303
        answer = await submit(browser, f"{ADMIN_PAGES}new/?user_id=anna", subject="Another", body="Something else.")
        assert "sending messages too quickly" in error_of(answer, "Something else.")


async def test_a_form_that_is_sent_twice_counts_once(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_messages_per_minute=1) as [client, _]:
        browser = Browser(client)
        await browser.sign_in("anna")
        typed: dict[str, Any] = {"subject": "Where is it?", "body": "My parcel.", "idempotency_key": str(uuid4())}
        first, second = [await submit(browser, f"{CUSTOMER_PAGES}new/", **typed) for _ in range(2)]
        assert (second.status_code, second.headers["Location"]) == (303, first.headers["Location"])


async def test_a_form_of_a_foreign_page_uses_up_no_limit(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_conversations_per_day=1) as [client, _]:
        browser = Browser(client)
        await browser.sign_in("anna")
        forged: dict[str, Any] = {"subject": "Forged", "body": "Forged.", "csrf_token": "guessed"}
        assert (await browser.submit(f"{CUSTOMER_PAGES}new/", **forged)).status_code == 403
        assert (await submit(browser, f"{CUSTOMER_PAGES}new/", subject="Mine", body="Hello?")).status_code == 303


async def submit(browser: Browser, path: str, **typed: Any) -> httpx2.Response:
    """Fill in the form of a page, and submit it."""
    page = Page(await browser.get(path))
    forms = [form for form in page.root.one("main").all("form") if "idempotency_key" in page.fields(form)]
    form = forms[0]  # an admin's page of a conversation has one for notes behind it
    return await browser.submit(path.partition("?")[0], **page.fields(form) | typed)


def error_of(answer: httpx2.Response, typed: str, within: int = 60) -> str:
    """Check that a page rejects a form and keeps what was typed; return its error."""
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= within
    page = Page(answer)
    field = page.root.one("main").all("textarea")[0]
    assert field.value.strip() == typed
    return page.root.all(role="alert")[0].text  # the last ones are for scripts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("192.0.2.7", "::ffff:192.0.2.7"),
        ("not an address", ""),
    ],
)
def test_addresses_that_belong_to_one_client_are_counted_together(one: str, other: str) -> None:
    assert network_of(one) == network_of(other)


@given(st.ip_addresses())
def test_addresses_of_different_clients_are_counted_separately(address: Any) -> None:
    step = 1 if address.version == 4 else 1 << 64
    neighbour = type(address)(int(address) ^ step)
    assert network_of(str(address)) != network_of(str(neighbour))
