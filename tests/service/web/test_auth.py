"""The page context of a signed-in user, and the cookie that both APIs accept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import text

from services.conversations.app import create_app
from services.conversations.event_log.position import encode_position
from services.conversations.identity import sessions
from services.conversations.identity.provisioning import provision_user
from services.conversations.privacy.erasure import delete_user
from services.conversations.rules import Side
from services.conversations.settings import ApiSettings
from services.conversations.web.auth import AdminContext, CustomerContext, PageContext
from shared.auth.principal import Principal
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory, driver_connection, transaction
from shared.event_log.reading import read_head
from shared.problems import Unauthenticated
from shared.settings import Role, TokenSettings
from tests.helpers.waiting import eventually
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, aged, store_token
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import HOST, client_of, connect

SETTINGS = TokenSettings(auth_secret=[SECRET])
UNAUTHENTICATED, FORBIDDEN, CSRF_FAILED = (401, "unauthenticated"), (403, "forbidden"), (403, "csrf-failed")

router = APIRouter()


def as_json(context: PageContext) -> dict[str, Any]:
    principal = context.principal
    return {"id": principal.id, "name": principal.name, "unread": context.unread, "position": context.position}


@router.get("/customer")
async def customer_page(context: CustomerContext) -> dict[str, Any]:
    return as_json(context)


@router.post("/customer")
async def customer_form(context: CustomerContext) -> dict[str, Any]:
    return as_json(context)


@router.get("/admin")
async def admin_page(context: AdminContext) -> dict[str, Any]:
    return as_json(context)


@pytest.fixture
def app(conversations: SessionFactory, databases: dict[str, str]) -> FastAPI:
    """An application with a page for each side."""
    app = create_app(ApiSettings(conversations_database_url=databases["conversations"], auth_secret=[SECRET]))
    connect(app, conversations)
    app.include_router(router)
    return app


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[Browser]:
    async with client_of(app) as client:
        yield Browser(client)


async def give_session(
    conversations: SessionFactory, browser: Browser, user: str = "anna", side: Side = Side.CUSTOMER
) -> Any:
    """Begin a user's session in this browser."""
    async with transaction(conversations) as session:
        await provision_user(session, Principal(user, Role(side), name=user.title()))
    async with transaction(conversations) as session:
        begun = await sessions.begin(session, user, side)
    browser.token = issue_session_token(SETTINGS, user, Role(side), begun.id, begun.csrf)
    return begun


async def test_a_page_knows_its_user_the_unread_count_and_the_logs_end(
    conversations: SessionFactory, browser: Browser, anna: Caller, sam: Caller
) -> None:
    assert problem(await browser.get("/customer")) == UNAUTHENTICATED
    await give_session(conversations, browser)
    await sam.post((await anna.open())["id"])
    await anna.open()

    seen = (await browser.get("/customer")).json()

    assert (seen["id"], seen["name"], seen["unread"]) == ("anna", "Anna", 1)
    async with conversations() as session:
        assert seen["position"] == encode_position(*await read_head(session))
    assert problem(await browser.get("/admin")) == FORBIDDEN

    await give_session(conversations, browser, "sam", Side.ADMIN)
    assert (await browser.get("/admin")).json()["unread"] == 1
    assert problem(await browser.get("/customer")) == FORBIDDEN


async def test_the_page_context_is_loaded_with_one_statement_that_locks_nothing(
    conversations: SessionFactory, browser: Browser
) -> None:
    session_record = await give_session(conversations, browser)
    await set_times(conversations, last_seen=timedelta(minutes=5))
    recorded: list[str] = []
    principal = Principal("anna", Role.CUSTOMER, session_id=session_record.id)
    async with transaction(conversations) as session:
        connection = await driver_connection(session)
        with connection.query_logger(lambda record: recorded.append(record.query)):
            await sessions.load_page_context(connection, principal)
        async with transaction(conversations) as other:
            await other.execute(text("select id from sessions for update nowait"))
    assert len(recorded) == 1


async def set_times(
    conversations: SessionFactory, *, last_seen: timedelta | None = None, began: timedelta | None = None
) -> None:
    """Set when all sessions were last used, or began."""
    async with transaction(conversations) as session:
        for column, ago in (("last_seen_at", last_seen), ("created_at", began)):
            if ago is not None:
                await session.execute(
                    text(f"update sessions set {column} = clock_timestamp() - make_interval(secs => :secs)"),  # noqa: S608 - the columns above
                    {"secs": ago.total_seconds()},
                )


@pytest.mark.parametrize(
    ("last_seen", "began", "lives"),
    [
        (timedelta(hours=11, minutes=59), timedelta(days=1), True),
        (timedelta(hours=12, seconds=1), timedelta(days=1), False),
        (timedelta(0), timedelta(days=6, hours=23), True),
        (timedelta(0), timedelta(days=7, seconds=1), False),
    ],
)
async def test_a_session_ends_after_12_hours_without_use_and_after_7_days(
    conversations: SessionFactory, browser: Browser, last_seen: timedelta, began: timedelta, lives: bool
) -> None:
    begun = await give_session(conversations, browser)
    await set_times(conversations, last_seen=last_seen, began=began)
    async with transaction(conversations) as session:
        assert await sessions.find_ended_sessions(session, [begun.id]) == (set() if lives else {begun.id})
    for path in ("/api/v1/unread", "/customer"):
        assert ((await browser.get(path)).status_code == 200) is lives
        await set_times(conversations, last_seen=last_seen, began=began)
    async with transaction(conversations) as session:
        await sessions.purge_sessions(session, None, size=10)  # type: ignore[arg-type] # it needs no setting
        found = await session.scalar(text("select count(*) from sessions"))
    assert found == (0 if last_seen > timedelta(hours=12) else 1)


async def last_seen(conversations: SessionFactory) -> datetime:
    async with transaction(conversations) as session:
        found = await session.scalar(text("select last_seen_at from sessions"))
    assert isinstance(found, datetime)
    return found


async def test_use_is_recorded_at_most_once_a_minute_and_polling_is_no_use(
    conversations: SessionFactory, browser: Browser
) -> None:
    await give_session(conversations, browser)
    first = await last_seen(conversations)
    await browser.get("/customer")
    assert await last_seen(conversations) == first

    await set_times(conversations, last_seen=timedelta(minutes=2))
    before = await last_seen(conversations)
    await browser.get("/customer?peek=true")
    await browser.get("/customer", headers={"Sec-Purpose": "prefetch"})
    await browser.get("/api/v1/unread")
    assert await last_seen(conversations) == before

    for use in (browser.get("/customer"), browser.call("POST", "/api/v1/conversations", {"subject": "Hello"})):
        await set_times(conversations, last_seen=timedelta(minutes=2))
        await use
        assert await last_seen(conversations) >= first


async def test_reporting_presence_does_not_keep_a_session_alive(
    conversations: SessionFactory, browser: Browser, anna: Caller
) -> None:
    conversation = (await anna.open())["id"]
    await give_session(conversations, browser, "sam", Side.ADMIN)
    await set_times(conversations, last_seen=timedelta(minutes=2))
    before = await last_seen(conversations)
    answer = await browser.call("POST", f"/api/v1/admin/conversations/{conversation}/viewing")
    assert answer.status_code == 200
    assert await last_seen(conversations) == before


async def test_a_deleted_user_is_rejected_even_if_a_session_is_left(
    conversations: SessionFactory, browser: Browser
) -> None:
    await give_session(conversations, browser)
    async with transaction(conversations) as session:
        await session.execute(text("update users set deleted_at = clock_timestamp()"))
    assert problem(await browser.get("/customer")) == UNAUTHENTICATED
    assert problem(await browser.get("/api/v1/unread")) == UNAUTHENTICATED


async def test_a_session_cannot_begin_while_its_user_is_being_deleted(conversations: SessionFactory) -> None:
    async with transaction(conversations) as session:
        await provision_user(session, Principal("anna", Role.CUSTOMER))
    async with transaction(conversations) as deleting:
        await delete_user(deleting, "anna")
        async with transaction(conversations) as session:
            beginning = asyncio.create_task(sessions.begin(session, "anna", Side.CUSTOMER))
            await eventually(lambda: is_waiting(conversations))
            await deleting.commit()
            with pytest.raises(Unauthenticated):
                await beginning


async def is_waiting(conversations: SessionFactory) -> bool:
    """Return whether a database session waits for a lock."""
    async with transaction(conversations) as session:
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        return bool(await session.scalar(text(waiting)))


async def test_a_page_renews_an_old_cookie_with_any_response(conversations: SessionFactory, browser: Browser) -> None:
    begun = await give_session(conversations, browser)
    young = browser.token
    await browser.get("/customer")
    assert browser.token == young

    for path, status in (("/customer", 200), ("/admin", 403)):
        for minutes in (6, 60):
            browser.token = old = aged(young, minutes)
            answer = await browser.get(path)
            assert answer.status_code == status
            assert browser.token != old
            assert browser.claims["sid"] == str(begun.id)
            assert browser.claims["exp"] > datetime.now(UTC).timestamp() + 500


async def test_an_expired_cookie_is_rejected_by_the_api_until_a_page_renews_it(
    conversations: SessionFactory, browser: Browser
) -> None:
    await give_session(conversations, browser)
    browser.token = aged(browser.token, 11)
    assert problem(await browser.get("/api/v1/unread")) == UNAUTHENTICATED
    assert (await browser.get("/customer")).status_code == 200
    assert (await browser.get("/api/v1/unread")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "field", "status"),
    [
        ({"Origin": HOST}, True, 200),
        ({}, True, 200),
        ({"Origin": HOST, "Sec-Fetch-Site": "same-origin"}, True, 200),
        ({"Origin": HOST}, False, 403),
        ({"Origin": "http://evil.test"}, True, 403),
        ({"Origin": "null"}, True, 403),
        ({"Origin": HOST + ":8000"}, True, 403),
        ({"Origin": HOST, "Sec-Fetch-Site": "same-site"}, True, 403),
        ({"Origin": HOST, "Sec-Fetch-Site": "cross-site"}, True, 403),
    ],
)
async def test_a_page_accepts_only_forms_of_this_origin_with_the_csrf_token(
    conversations: SessionFactory, browser: Browser, headers: dict[str, str], field: bool, status: int
) -> None:
    begun = await give_session(conversations, browser)
    for csrf in [begun.csrf] if field else ["", "x", begun.csrf[:-1], begun.csrf + "é"]:
        answer = await browser.client.post("/customer", headers=headers, data={"csrf_token": csrf})
        assert answer.status_code == status
    if status == 200:
        browser.token = aged(browser.token, 60)  # the form was open for an hour
        assert (await browser.client.post("/customer", headers=headers, data={"csrf_token": begun.csrf})).is_success


async def test_a_session_token_is_accepted_only_as_a_cookie(conversations: SessionFactory, browser: Browser) -> None:
    begun = await give_session(conversations, browser)
    valid = browser.token
    bearer = await browser.client.get("/api/v1/unread", headers={"Authorization": f"Bearer {valid}"})
    assert problem(bearer) == UNAUTHENTICATED
    mixed = await browser.client.get("/api/v1/unread", headers={"Authorization": "Basic YTpi"})
    assert problem(mixed) == UNAUTHENTICATED
    others = TokenSettings(auth_secret=["another secret, which is long enough too"])
    for invalid in (
        store_token("anna"),
        store_token("anna", sid=str(begun.id)),
        store_token("anna", csrf=begun.csrf),
        store_token("anna", sid="1", csrf=begun.csrf),
        store_token("anna", sid=str(begun.id), csrf=""),
        store_token("anna", sid=str(begun.id), csrf=7),
        store_token("ben", sid=str(begun.id), csrf=begun.csrf),
        store_token("anna", "admin", sid=str(begun.id), csrf=begun.csrf),
        store_token("anna", "store", sid=str(begun.id), csrf=begun.csrf),
        issue_session_token(others, "anna", Role.CUSTOMER, begun.id, begun.csrf),
        valid[:-3] + "AAA",
        "x",
    ):
        browser.token = invalid
        assert (await browser.get("/api/v1/unread")).status_code == 401
        assert (await browser.get("/customer")).status_code == 401
    browser.token = valid
    assert (await browser.get("/api/v1/unread")).status_code == 200


async def test_an_ended_session_is_rejected_at_once_for_posts_too(
    conversations: SessionFactory, browser: Browser, anna: Caller
) -> None:
    begun = await give_session(conversations, browser)
    conversation = (await anna.open(body="Hello"))["id"]
    path = f"/api/v1/conversations/{conversation}/messages"
    assert (await browser.call("POST", path, {"body": "One"})).status_code == 201
    assert (await browser.call("POST", path, {"body": "Two"})).status_code == 201
    async with transaction(conversations) as session:
        await sessions.end(session, begun.id)
    assert problem(await browser.call("POST", path, {"body": "Three"})) == UNAUTHENTICATED
    assert problem(await browser.get("/api/v1/unread")) == UNAUTHENTICATED
    assert problem(await browser.get("/customer")) == UNAUTHENTICATED
    assert (await anna.peek(conversation))["message_count"] == 3
