"""Browser sessions: how they begin and end, and protection against misuse of both."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs

from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from services.conversations.web.routes.session import HOME
from shared.database.transactions import SessionFactory, transaction
from shared.settings import Role
from tests.helpers.identity_provider import private_key, signed
from tests.service.access.table import ROWS
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, aged, store_token
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import HOST, client_of, connect

STORE = "https://store.test"
ISSUER = "https://id.test"
UNAUTHENTICATED, FORBIDDEN, CSRF_FAILED = (401, "unauthenticated"), (403, "forbidden"), (403, "csrf-failed")
NOT_LISTED = (403, "origin-not-listed")
CUSTOMERS, ADMINS = HOME[Role.CUSTOMER], HOME[Role.ADMIN]

NewBrowser = Callable[..., AbstractAsyncContextManager[Browser]]


@pytest.fixture
def new_browser(conversations: SessionFactory, databases: dict[str, str]) -> NewBrowser:
    """Return a function that opens browsers at a service with these settings."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Browser]:
        values = {"auth_secret": [SECRET], "store_origins": [STORE], "public_url": HOST} | changes
        app = create_app(ApiSettings(conversations_database_url=databases["conversations"], **values))
        connect(app, conversations)
        secure = values["public_url"].startswith("https")
        async with client_of(app, values["public_url"]) as client:
            yield Browser(client, "__Host-chats" if secure else "chats")

    return make


@pytest.fixture
async def browser(new_browser: NewBrowser) -> AsyncIterator[Browser]:
    async with new_browser() as new:
        yield new


def page_problem(answer: httpx2.Response) -> tuple[int, str]:
    """Check that a response is an error page that changes no cookie; return its status and code."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8", answer.text
    assert "set-cookie" not in answer.headers
    assert "<h1" in answer.text
    titles = {"This form has expired": "csrf-failed", "This page cannot sign you in": "origin-not-listed"}
    codes = [code for title, code in titles.items() if title in answer.text]
    return answer.status_code, {401: "unauthenticated", 403: [*codes, "forbidden"][0]}[answer.status_code]


async def count(conversations: SessionFactory, user: str = "anna") -> int:
    async with transaction(conversations) as session:
        found = await session.scalar(text("select count(*) from sessions where user_id = :user"), {"user": user})
    assert isinstance(found, int)
    return found


async def is_in(browser: Browser) -> bool:
    answer = await browser.get("/api/v1/unread")
    assert answer.status_code == 200 or problem(answer) == UNAUTHENTICATED
    return answer.status_code == 200


async def test_a_session_begins_is_used_and_ends(browser: Browser, conversations: SessionFactory, anna: Caller) -> None:
    answer = await browser.sign_in(next="/dashboard/messages/?status=OPEN")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/messages/?status=OPEN")
    assert answer.headers["cache-control"] == "no-store"
    assert (await browser.call("POST", "/api/v1/conversations", {"subject": "Hello"})).status_code == 201
    assert len((await anna.get("/conversations"))["items"]) == 1
    old = browser.token

    answer = await browser.submit("/session/end", csrf_token=browser.claims["csrf"])

    assert answer.status_code == 200
    assert "signed out" in answer.text
    assert "chats" not in browser.client.cookies
    assert await count(conversations) == 0
    browser.token = old
    assert not await is_in(browser)
    assert problem(await browser.call("POST", "/api/v1/conversations", {"subject": "Hello"})) == UNAUTHENTICATED


async def test_each_role_is_redirected_to_its_own_pages(browser: Browser) -> None:
    for path in ("/", "/session"):
        assert (await browser.get(path)).headers["location"] == CUSTOMERS
    for role, home in (("customer", CUSTOMERS), ("admin", ADMINS)):
        assert (await browser.sign_in("anna", role)).headers["location"] == home
        for path in ("/", "/session"):
            assert (await browser.get(path)).headers["location"] == home
    assert (await browser.get("/session/end")).status_code == 405
    assert (await browser.get("/session/renew")).status_code == 405


async def test_signing_in_creates_the_user_from_the_claims(browser: Browser, sam: Caller) -> None:
    token = store_token("anna", name="Anna", email="anna@customer.test", locale="de", zoneinfo="Europe/Vienna")
    await browser.submit("/session", token=token)
    assert (await sam.get("/users"))["items"] == [{"id": "anna", "name": "Anna", "email": "anna@customer.test"}]


@pytest.mark.parametrize(
    ("make_token", "expected"),
    [
        (lambda: "", UNAUTHENTICATED),
        (lambda: "x.y.z", UNAUTHENTICATED),
        (lambda: store_token(seconds=-60), UNAUTHENTICATED),
        (lambda: store_token("two words"), UNAUTHENTICATED),
        (lambda: store_token("anna", "owner"), UNAUTHENTICATED),
        (lambda: store_token(csrf="x", sid="01900000-0000-4000-8000-000000000000"), UNAUTHENTICATED),
        (lambda: aged(store_token(), 4), None),
        (lambda: aged(store_token(), 6), UNAUTHENTICATED),
        (lambda: store_token("shop", "store"), FORBIDDEN),
    ],
)
async def test_a_session_begins_with_a_fresh_token_of_a_customer_or_an_admin(
    browser: Browser, make_token: Callable[[], str], expected: Any
) -> None:
    answer = await browser.submit("/session", token=make_token())
    if expected is None:
        assert answer.status_code == 303
    else:
        assert page_problem(answer) == expected


async def test_a_session_token_cannot_begin_another_session(browser: Browser) -> None:
    await browser.sign_in()
    assert page_problem(await browser.submit("/session", token=browser.token)) == UNAUTHENTICATED


@pytest.mark.parametrize(
    ("headers", "lets_in"),
    [
        ({"Origin": STORE, "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": STORE.upper()}, True),
        ({"Origin": HOST, "Sec-Fetch-Site": "same-origin"}, True),
        ({}, True),  # no browser
        ({"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": f"{STORE}.evil.test"}, False),
        ({"Origin": f"{STORE}:8443"}, False),
        ({"Origin": "http://store.test"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://[evil"}, False),
        ({"Origin": HOST, "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
async def test_a_foreign_page_cannot_sign_anyone_in(browser: Browser, headers: dict[str, str], lets_in: bool) -> None:
    answer = await browser.client.post("/session", data={"token": store_token("mallory")}, headers=headers)
    if lets_in:
        assert answer.status_code == 303
    else:
        assert page_problem(answer) == NOT_LISTED


@pytest.mark.parametrize("origin", ["https://evil.test", "null"])
async def test_an_origin_that_is_not_listed_is_named_on_the_page_and_in_the_log(browser: Browser, origin: str) -> None:
    with capture_logs() as logged:
        answer = await browser.submit("/session", headers={"Origin": origin}, token=store_token())
    assert page_problem(answer) == NOT_LISTED
    assert origin in answer.text
    assert "CHATS_STORE_ORIGINS" in answer.text
    [line] = [line for line in logged if line["event"] == "session refused"]
    assert line["reason"] == "origin-not-listed"
    assert origin in line["detail"]


REASONS: list[tuple[str, Callable[[], str], str]] = [
    ("expired", lambda: store_token(seconds=-60), "has expired"),
    ("expired", lambda: aged(resigned(), 6), "has expired"),
    ("not_yet_valid", lambda: aged(store_token(), -2), "not valid yet"),
    (
        "bad_signature",
        lambda: jwt.encode(claims_of(store_token()), "another secret of 32 bytes or more"),
        "signature of the store",
    ),
    ("wrong_audience", lambda: resigned(aud="other"), "a different audience"),
    ("wrong_issuer", lambda: resigned(iss="https://other.test"), "a different issuer"),
    ("missing_claim", lambda: resigned(iat=None), "is missing a required claim: iat."),
    ("missing_claim", lambda: resigned(role=None), "is missing a required claim: role."),
    ("unknown_key", lambda: signed(private_key("RS256"), "RS256"), "an unknown key"),
    ("unknown_role", lambda: resigned(role="owner"), "has no known role"),
    ("malformed", lambda: resigned(sub=7), "has an invalid claim: sub."),
    ("malformed", lambda: resigned(sub="two words"), "has an invalid claim: sub."),
    ("malformed", lambda: "x.y.z", "sent an invalid token"),
]


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found | {"iss": ISSUER}


def resigned(**changes: Any) -> str:
    kept = {name: value for name, value in (claims_of(store_token()) | changes).items() if value is not None}
    return jwt.encode(kept, SECRET, algorithm="HS256")


@pytest.mark.parametrize(("reason", "make_token", "said"), REASONS)
async def test_a_rejected_tokens_reason_is_in_the_api_on_the_page_and_in_the_log(
    new_browser: NewBrowser, reason: str, make_token: Callable[[], str], said: str
) -> None:
    token, is_only_too_old = make_token(), said == "has expired" and claims_of(make_token())["exp"] > time.time()
    async with new_browser(auth_issuer=ISSUER) as browser:
        with capture_logs() as logged:
            page = await browser.submit("/session", token=token)
            answer = await browser.get("/api/v1/unread", headers={"Authorization": f"Bearer {token}"})
    assert page_problem(page) == UNAUTHENTICATED
    assert "Sign-in failed" in page.text
    assert said in page.text
    lines = [line for line in logged if line["event"] in {"session refused", "token refused"}]
    if not is_only_too_old:
        assert problem(answer) == UNAUTHENTICATED
        assert answer.json()["reason"] == reason
        assert answer.json()["detail"] == lines[1]["detail"]
    assert {line["reason"] for line in lines} == {reason}
    assert token not in str(lines)
    assert SECRET not in str(lines)


@pytest.mark.parametrize("fields", [{}, {"token": ""}, {"jwt": "x.y.z"}])
async def test_a_form_without_a_token_is_named_on_the_page_and_in_the_log(
    browser: Browser, fields: dict[str, Any]
) -> None:
    with capture_logs() as logged:
        page = await browser.submit("/session", **fields)
    assert page_problem(page) == UNAUTHENTICATED
    assert "form has no token" in page.text
    [line] = [line for line in logged if line["event"] == "session refused"]
    assert (line["reason"], line["detail"]) == (
        "malformed",
        "The form has no token. Send it as the form field token.",
    )


async def test_the_reason_of_a_failed_sign_in_is_shown_in_the_readers_language(new_browser: NewBrowser) -> None:
    async with new_browser(locale="de") as browser:
        page = await browser.submit("/session", token=resigned(aud="other"))
    assert "Anmeldung fehlgeschlagen" in page.text
    assert "für einen anderen Empfänger bestimmt" in page.text


async def test_the_maximum_age_of_a_token_that_begins_a_session_is_a_setting(new_browser: NewBrowser) -> None:
    async with new_browser(session_token_max_age_seconds=600) as browser:
        assert (await browser.submit("/session", token=aged(store_token(), 8))).status_code == 303
        assert page_problem(await browser.submit("/session", token=aged(store_token(), 12))) == UNAUTHENTICATED


async def test_the_store_role_gets_an_error_that_there_are_no_pages_for_it(browser: Browser) -> None:
    page = await browser.submit("/session", token=store_token("shop", "store"))
    assert page_problem(page) == FORBIDDEN
    assert "There are no pages for this role" in page.text


async def test_a_withdrawn_role_is_the_reason_on_the_page(browser: Browser, shop: Caller) -> None:
    await shop.call("PUT", "/users/sam", {"role": "customer"})
    page = await browser.submit("/session", token=store_token("sam", "admin"))
    assert page_problem(page) == FORBIDDEN
    assert "The store has withdrawn your rights as an admin." in page.text


async def test_without_store_origins_only_the_products_own_pages_begin_sessions(new_browser: NewBrowser) -> None:
    async with new_browser(store_origins=[]) as browser:
        assert (
            page_problem(await browser.submit("/session", headers={"Origin": STORE}, token=store_token())) == NOT_LISTED
        )
        assert (await browser.sign_in()).status_code == 303


async def test_a_session_has_a_new_id_no_matter_which_cookie_the_browser_had(
    browser: Browser, conversations: SessionFactory
) -> None:
    await browser.sign_in("mallory")
    before = browser.claims
    await browser.sign_in("anna")
    assert browser.claims["sid"] != before["sid"]
    assert browser.claims["csrf"] != before["csrf"]
    assert await count(conversations, "mallory") == 0

    first = browser.claims
    await browser.sign_in("anna")
    assert browser.claims["sid"] != first["sid"]
    assert browser.claims["csrf"] == first["csrf"]  # so that forms in other tabs stay valid
    assert await count(conversations) == 1


async def test_another_user_in_the_same_browser_has_no_access_to_the_first_users_data(
    browser: Browser, anna: Caller
) -> None:
    conversation = (await anna.open(body="Private"))["id"]
    await browser.sign_in("anna")
    annas = browser.token
    old = browser.claims
    await browser.sign_in("ben")
    assert (await browser.get(f"/api/v1/conversations/{conversation}")).status_code == 404
    stale = await browser.call("POST", "/api/v1/conversations", {"subject": "Hello"}, **{"X-CSRF-Token": old["csrf"]})
    assert problem(stale) == CSRF_FAILED
    browser.token = annas
    assert not await is_in(browser)


async def test_a_double_click_signs_in_twice_and_both_sessions_work(
    browser: Browser, conversations: SessionFactory
) -> None:
    token = store_token()
    answers = await asyncio.gather(*(browser.submit("/session", token=token) for _ in range(2)))
    assert [answer.status_code for answer in answers] == [303, 303]
    for answer in answers:
        browser.token = answer.cookies["chats"]
        assert await is_in(browser)
    assert await count(conversations) == 2


@pytest.mark.parametrize("everywhere", [False, True])
async def test_signing_out_ends_this_session_or_all(new_browser: NewBrowser, everywhere: bool) -> None:
    async with new_browser() as here, new_browser() as there, new_browser() as other:
        await here.sign_in("anna")
        await there.sign_in("anna")
        await other.sign_in("ben")
        left = here.token
        fields: dict[str, Any] = {"everywhere": "true"} if everywhere else {}
        await here.submit("/session/end", csrf_token=here.claims["csrf"], **fields)
        assert await is_in(there) is not everywhere
        assert await is_in(other)

        here.token = left  # as if it had been stolen
        await there.sign_in("anna")
        answer = await here.submit("/session/end", csrf_token=here.claims["csrf"], everywhere="true")
        assert answer.status_code == 200
        assert await is_in(there)


async def test_a_foreign_page_cannot_sign_anyone_out(browser: Browser) -> None:
    await browser.sign_in()
    csrf = browser.claims["csrf"]
    for headers, field in (({"Origin": STORE}, csrf), ({"Origin": "null"}, csrf), ({}, "x"), ({}, "")):
        assert page_problem(await browser.submit("/session/end", headers=headers, csrf_token=field)) == CSRF_FAILED
    browser.client.cookies.clear()  # a form of another site is sent without it
    answer = await browser.submit("/session/end", headers={"Origin": "https://evil.test"})
    assert "set-cookie" not in answer.headers


async def test_signing_out_leads_back_to_the_store_even_after_the_session_has_ended(new_browser: NewBrowser) -> None:
    async with new_browser(store_url="https://store.test/home") as browser:
        await browser.sign_in()
        for _ in range(2):
            answer = await browser.submit("/session/end", csrf_token=browser.claims["csrf"])
            assert (answer.status_code, answer.headers["location"]) == (303, "https://store.test/home")
            assert "chats=; " in answer.headers["set-cookie"]
            assert "Max-Age=0" in answer.headers["set-cookie"]
            browser.token = aged(store_token(sid="01900000-0000-4000-8000-000000000000", csrf="x"), 60)


async def test_a_script_can_renew_the_cookie_until_the_session_ends(browser: Browser, shop: Caller) -> None:
    await browser.sign_in()
    browser.token = aged(browser.token, 60)
    assert not await is_in(browser)
    answer = await browser.call("POST", "/session/renew")
    assert answer.status_code == 204
    assert answer.headers["cache-control"] == "no-store"
    assert await is_in(browser)
    for headers in ({"X-CSRF-Token": "x"}, {"Origin": STORE}, {"Sec-Fetch-Site": "cross-site"}):
        assert problem(await browser.call("POST", "/session/renew", **headers)) == CSRF_FAILED

    await shop.call("DELETE", "/users/anna/sessions")
    assert problem(await browser.call("POST", "/session/renew")) == UNAUTHENTICATED
    browser.client.cookies.clear()
    assert problem(await browser.client.post("/session/renew")) == UNAUTHENTICATED


async def test_the_store_can_end_a_users_sessions(new_browser: NewBrowser, shop: Caller) -> None:
    async with new_browser() as here, new_browser() as there, new_browser() as other:
        for browser, user in ((here, "anna"), (there, "anna"), (other, "ben")):
            await browser.sign_in(user)
        for user in ("anna", "nobody"):
            assert (await shop.call("DELETE", f"/users/{user}/sessions")).status_code == 204
        assert [await is_in(browser) for browser in (here, there, other)] == [False, False, True]


async def test_a_deleted_user_has_no_session_until_the_store_syncs_them_again(browser: Browser, shop: Caller) -> None:
    await browser.sign_in()
    await shop.call("DELETE", "/users/anna")
    assert not await is_in(browser)
    refused = await browser.sign_in()
    assert page_problem(refused) == UNAUTHENTICATED
    assert "This account was deleted in the store." in refused.text
    await shop.call("PUT", "/users/anna", {})
    assert not await is_in(browser)
    await browser.sign_in()
    assert await is_in(browser)


async def test_a_changed_role_ends_the_sessions_of_the_old_role(new_browser: NewBrowser, shop: Caller) -> None:
    await shop.call("PUT", "/users/sam", {"role": "admin"})
    async with new_browser() as admins, new_browser() as customers:
        await admins.sign_in("sam", "admin")
        await customers.sign_in("sam", "customer")
        await shop.call("PUT", "/users/sam", {"name": "Sam"})
        await shop.call("PUT", "/users/sam", {"role": "admin"})
        assert await is_in(admins)
        await shop.call("PUT", "/users/sam", {"role": "customer"})
        assert [await is_in(admins), await is_in(customers)] == [False, True]


@pytest.mark.parametrize("secure", [False, True])
async def test_the_cookie_is_protected_from_scripts_other_sites_and_plain_connections(
    new_browser: NewBrowser, secure: bool
) -> None:
    url = "https://chats.test" if secure else HOST
    async with new_browser(public_url=url) as browser:
        answer = await browser.submit("/session", headers={"Origin": url}, token=store_token())
        cookie, *attributes = answer.headers["set-cookie"].split("; ")
        assert cookie.startswith("__Host-chats=" if secure else "chats=")
        expected = {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Lax"}
        assert set(attributes) == expected | ({"Secure"} if secure else set())
        assert await is_in(browser)
        plain = {"Cookie": f"{'chats' if secure else '__Host-chats'}={browser.token}"}
        browser.client.cookies.clear()
        assert (await browser.get("/api/v1/unread", headers=plain)).status_code == 401


@pytest.mark.parametrize("nonsense", ["%FF", "%ED%A0%80", "%00", "", "%C3%A9", "&next=%2F", "%0A"])
async def test_invalid_bytes_in_a_form_are_rejected_like_any_invalid_value(browser: Browser, nonsense: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await browser.client.post("/session", content=f"token={nonsense}", headers=form)
    assert page_problem(answer) == UNAUTHENTICATED
    answer = await browser.client.post("/session", content=f"token={store_token()}&next=/{nonsense}", headers=form)
    assert answer.headers["location"] in {CUSTOMERS, "/"}
    answer = await browser.client.post("/session/end", content=f"csrf_token={nonsense}", headers=form)
    assert page_problem(answer) == CSRF_FAILED


async def test_a_user_without_a_session_is_redirected_to_sign_in_and_back(new_browser: NewBrowser) -> None:
    async with new_browser(login_url="https://store.test/login?app=1") as browser:
        answer = await browser.get(f"{CUSTOMERS}new/?order_id=A%2F1")
        assert answer.status_code == 303
        login = httpx2.URL(answer.headers["location"])
        assert (login.host, login.path, login.params["app"]) == ("store.test", "/login", "1")
        back = await browser.sign_in(next=login.params["next"])
        assert back.headers["location"] == f"{CUSTOMERS}new/?order_id=A%2F1"
        assert (await browser.get(back.headers["location"])).status_code == 200
    async with new_browser() as browser:
        assert page_problem(await browser.get(CUSTOMERS)) == UNAUTHENTICATED


async def test_a_next_that_the_store_forgot_to_encode_is_encoded(new_browser: NewBrowser) -> None:
    async with new_browser() as browser:
        back = await browser.sign_in(next=f"{CUSTOMERS}new/?subject=Größe & Farbe?")
        assert back.headers["location"] == f"{CUSTOMERS}new/?subject=Gr%C3%B6%C3%9Fe%20&%20Farbe?"


async def test_the_url_of_every_form_can_be_returned_to_after_sign_in(new_browser: NewBrowser) -> None:
    async with new_browser(login_url="https://store.test/login") as browser:
        rows = [row for row in ROWS if row.method == "POST" and row.path.startswith(("/admin", "/dashboard"))]
        forms = {re.sub(r"{\w+}", str(uuid4()), row.path) for row in rows}
        wanted = [httpx2.URL((await browser.submit(form)).headers["location"]).params["next"] for form in forms]
        await browser.sign_in(role="admin")
        assert {(await browser.get(path)).status_code for path in wanted} <= {200, 303, 403, 404}


async def test_pages_are_not_cached_so_the_next_user_cannot_see_them(browser: Browser) -> None:
    await browser.sign_in()
    assert (await browser.get(CUSTOMERS)).headers["cache-control"] == "no-store"


HOSTILE = [
    *("", "//evil.test", "///evil.test", "/\\evil.test", "\\\\evil.test", "/\t/evil.test", "/\n/evil.test"),
    *("\t//evil.test", " //evil.test", "/ /evil.test", "evil.test", "https://evil.test", "https:evil.test"),
    *("javascript:alert(1)", "data:text/html,x", "/a\r\nX-Evil: 1", "/a\\b", "/é", "/\u2028", "/\x00", "?x", "#x"),
    "/" + "x" * 3000,
]


@pytest.mark.parametrize("wanted", HOSTILE)
async def test_a_next_that_is_not_a_path_of_this_origin_is_ignored(browser: Browser, wanted: str) -> None:
    answer = await browser.sign_in(next=wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, CUSTOMERS)


@given(
    st.text(st.sampled_from("/\\.:@%#?ab\t\n é\x00") | st.characters(codec="utf-8"), max_size=12).map(
        lambda tail: "/" + tail
    )
)
@example("/.//evil.test")
@example("/..//evil.test")
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_no_next_leads_away_from_this_origin(browser: Browser, wanted: str) -> None:
    location = (await browser.sign_in(next=wanted)).headers["location"]
    as_browsers_read = location.replace("\\", "/").replace("\t", "").replace("\n", "")
    assert as_browsers_read.startswith("/")
    assert not as_browsers_read.startswith("//")
    assert httpx2.URL(HOST).join(location).host == urlsplit(HOST).hostname
