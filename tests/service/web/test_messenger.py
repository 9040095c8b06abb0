"""The messenger's frame: its session, its pages, who may frame them, and the script for the store's pages."""

import gzip
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest

from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from services.conversations.web.assets import EMBED, embedded_script
from shared.database.transactions import SessionFactory
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.callers import UNKNOWN_ID, problem
from tests.service.helpers.connected import HOST, client_of, connect

STORE, OTHER_STORE = "https://store.test", "http://localhost:8011"
START, SESSION, LIST = "/messenger/start/", "/messenger/session", "/messenger/"

NewFrame = Callable[..., AbstractAsyncContextManager[Browser]]


@pytest.fixture
def new_frame(conversations: SessionFactory, databases: dict[str, str]) -> NewFrame:
    """Return a function that opens frames at a service with these settings."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Browser]:
        values = {"auth_secret": [SECRET], "store_origins": [STORE, OTHER_STORE], "public_url": HOST} | changes
        app = create_app(ApiSettings(conversations_database_url=databases["conversations"], redis_url=None, **values))
        connect(app, conversations)
        async with client_of(app, values["public_url"]) as client:
            yield Browser(client, "chats-messenger")

    return make


@pytest.fixture
async def frame(new_frame: NewFrame) -> AsyncIterator[Browser]:
    async with new_frame() as new:
        yield new


async def begin(frame: Browser, sub: str = "anna", role: str = "customer", **headers: str) -> httpx2.Response:
    """Begin the frame's session as its script does."""
    return await frame.submit(SESSION, token=store_token(sub, role), headers=headers)


def ancestors(answer: httpx2.Response) -> str:
    [policy] = answer.headers.get_list("content-security-policy")
    [found] = re.findall(r"frame-ancestors ([^;]*)", policy)
    return str(found)


async def test_a_session_begins_goes_on_and_is_replaced_by_another_customers(frame: Browser) -> None:
    shell = await frame.get(LIST)
    assert (shell.status_code, "messenger-start.js" in shell.text) == (401, True)
    assert (await begin(frame)).status_code == 201
    assert "Your messages" in (await frame.get(LIST)).text
    first = frame.claims["sid"]
    assert (await begin(frame)).status_code == 204
    assert frame.claims["sid"] == first
    anna = frame.token

    assert (await begin(frame, "ben")).status_code == 201

    frame.token = anna
    assert (await frame.get(LIST)).status_code == 401, "Anna's session has ended"


async def test_an_ended_session_does_not_go_on(frame: Browser) -> None:
    await begin(frame)
    first = frame.claims["sid"]
    store = {"Authorization": f"Bearer {store_token('shop', 'store')}"}
    assert (await frame.client.delete("/api/v1/store/users/anna/sessions", headers=store)).status_code == 204
    assert (await frame.get(LIST)).status_code == 401
    assert (await begin(frame)).status_code == 201
    assert frame.claims["sid"] != first


async def test_no_admin_and_no_page_of_another_origin_can_begin_one(frame: Browser) -> None:
    assert problem(await begin(frame, "sam", "admin")) == (403, "forbidden")
    for origin in ("https://evil.test", STORE, "null"):
        assert problem(await begin(frame, Origin=origin)) == (403, "csrf-failed")
    assert problem(await begin(frame, **{"Sec-Fetch-Site": "same-site"})) == (403, "csrf-failed")
    refused = await frame.submit(SESSION, token=store_token(seconds=-60))
    assert (refused.status_code, refused.json()["reason"]) == (401, "expired")
    assert "set-cookie" not in refused.headers


@pytest.mark.parametrize(
    ("public_url", "expected"),
    [
        ("https://chats.test", "__Host-chats-messenger=; Path=/; HttpOnly; SameSite=None; Secure; Partitioned"),
        ("http://127.0.0.1:8000", "chats-messenger=; Path=/; HttpOnly; SameSite=None; Secure; Partitioned"),
        ("http://chats.test", "chats-messenger=; Path=/; HttpOnly; SameSite=Lax"),
    ],
)
async def test_the_cookie_is_partitioned_where_a_browser_accepts_that(
    new_frame: NewFrame, public_url: str, expected: str
) -> None:
    async with new_frame(public_url=public_url) as frame:
        answer = await begin(frame, Origin=public_url)
        cookie = re.sub(r"=[^;]+; Path=/; Max-Age=43200;", "=; Path=/;", answer.headers["set-cookie"])
        assert cookie == expected


async def test_only_the_stores_may_frame_only_the_messenger(new_frame: NewFrame) -> None:
    async with new_frame() as frame:
        await begin(frame)
        for path in (START, LIST, f"{LIST}new/", f"{LIST}{UNKNOWN_ID}/"):
            answer = await frame.get(path)
            assert ancestors(answer) == f"{STORE} {OTHER_STORE}", path
            assert answer.headers["cache-control"] == "no-store"
        pages = ("/dashboard/messages/", "/session/end", "/admin/dashboard/conversation/")
        for path in (*pages, "/messenger", "/messenger/x", "/messenger/api/v1/stream/", "/api/v1/unread"):
            assert ancestors(await frame.get(path)) == "'none'", path
    async with new_frame(store_origins=[]) as frame:
        assert ancestors(await frame.get(START)) == "'none'"


async def test_the_pages_lead_and_their_forms_return_to_the_frame(frame: Browser) -> None:
    await begin(frame)
    page = await frame.get(f"{LIST}new/?subject=A+%3Cb%3Equestion%3C/b%3E")
    assert 'value="A &lt;b&gt;question&lt;/b&gt;"' in page.text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    sent = await frame.submit(f"{LIST}new/", **{**hidden, "subject": "Hello", "body": "Where is it?"})
    assert sent.status_code == 303
    assert re.fullmatch(r"/messenger/[0-9a-f-]{36}/", sent.headers["location"])
    thread = await frame.get(sent.headers["location"])
    for content in (page.text, thread.text, (await frame.get(LIST)).text):
        links = re.findall(r'(?:href|action)="(/[^"]*)"', content)
        assert [link for link in links if not link.startswith(("/messenger/", "/chats-static/"))] == []
        assert '<meta name="chats-calls" content="/messenger">' in content
        assert f'<meta name="chats-store-origins" content="{STORE} {OTHER_STORE}">' in content
    assert 'data-send="/api/v1/conversations/' in thread.text


async def test_the_pages_outside_of_the_frame_are_as_before(frame: Browser) -> None:
    outside = Browser(frame.client)
    await outside.sign_in()
    page = await outside.get("/dashboard/messages/")
    assert 'href="/dashboard/messages/new/"' in page.text
    assert "chats-store-origins" not in page.text
    assert ancestors(page) == "'none'"


def test_the_script_is_one_module_of_at_most_8_kib_and_leaves_nothing_out() -> None:
    script = embedded_script()
    assert len(gzip.compress(script, 6)) <= 8 * 1024
    source = script.decode()
    assert re.findall(r"^(?:import|export)\b", source, re.MULTILINE) == []
    for path in EMBED.glob("*.js"):
        for name in re.findall(r"^export (?:async )?(?:function\*?|const|class) (\w+)", path.read_text(), re.MULTILINE):
            assert len(re.findall(rf"^(?:async )?(?:function\*?|const|class) {name}\b", source, re.MULTILINE)) == 1, (
                name
            )


async def test_the_script_has_a_stable_address_and_is_revalidated(frame: Browser) -> None:
    for name in ("messenger.js", "badge.js"):
        script = await frame.get(f"/chats-static/{name}")
        assert script.content == embedded_script()
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "public, max-age=300"
        again = await frame.get(f"/chats-static/{name}", headers={"If-None-Match": script.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await frame.client.post(f"/chats-static/{name}")).status_code == 405
