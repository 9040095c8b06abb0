"""<chats-badge> in a real browser, on a store's page with a strict policy; this file plays the chats."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from playwright.async_api import Browser, BrowserContext, Page
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from deploy.local.ports import free_ports
from services.conversations.web.assets import Assets
from shared.api.app import CrossOrigin
from shared.auth.tokens import issue_token, verify_token
from shared.settings import TokenSettings
from tests.browser.helpers.store import served
from tests.helpers.waiting import eventually

SETTINGS = TokenSettings(auth_secret=[SecretStr("a secret for tests with 32 bytes or more")])


@dataclass
class Chats:
    """The endpoints that the badge calls, with an unread count that tests set."""

    url: str
    unread: int = 0
    refuses_streams: bool = False
    refuses_tokens: bool = False
    request_count: int = 0
    streams: list[asyncio.Queue[str | None]] = field(default_factory=list)
    session: str = "fresh"

    def app(self, store: str) -> ASGIApp:
        return Starlette(
            routes=[
                Route("/api/v1/unread", self._unread),
                Route("/api/v1/stream", self._stream),
                Mount("/chats-static", Assets(None)),
                Route("/dashboard/messages/", self.page),
                Route("/", Store(self.url, self.url, "<chats-badge></chats-badge>").page),
            ],
            middleware=[Middleware(CrossOrigin, [store])],
        )

    def set_unread(self, unread: int) -> None:
        self.unread = unread
        for stream in self.streams:
            stream.put_nowait(f": a comment\r\n\r\nevent: unread\r\ndata: {json.dumps(self.shown)}\r\n\r\n")

    async def drop_streams(self) -> None:
        for stream in self.streams:
            stream.put_nowait(None)
        await eventually(lambda: not self.streams)

    @property
    def shown(self) -> dict[str, object]:
        return {"unread": self.unread, **({"more": True} if self.unread == 1000 else {})}

    async def page(self, request: Request) -> Response:
        assert request.url.query == "peek=true"
        response = HTMLResponse("A page of the chats.")
        response.set_cookie("chats", self.session)
        return response

    def _check(self, request: Request) -> None:
        if "Authorization" in request.headers:
            verify_token(request.headers["Authorization"].removeprefix("Bearer "), SETTINGS)
        elif request.cookies.get("chats") != self.session:
            raise HTTPException(401)

    async def _unread(self, request: Request) -> Response:
        if self.refuses_tokens:
            return JSONResponse({"reason": "bad_signature"}, 401)
        self._check(request)
        self.request_count += 1
        return JSONResponse(self.shown)

    async def _stream(self, request: Request) -> Response:
        self._check(request)
        return Response(status_code=429) if self.refuses_streams else StreamingResponse(self._events())

    async def _events(self) -> AsyncIterator[str]:
        stream: asyncio.Queue[str | None] = asyncio.Queue()
        self.streams.append(stream)
        try:
            while (event := await stream.get()) is not None:
                for character in event:  # split at every possible point
                    yield character
        finally:
            self.streams.remove(stream)


@dataclass
class Store:
    """A store's page with the badge in its header, and the store's backend that signs tokens."""

    url: str
    chats: str
    badge: str = '<a href="/messages">Messages <chats-badge token-url="/token"></chats-badge></a>'
    signed_in: bool = True
    lifetime: timedelta = timedelta(minutes=5)
    tokens: int = 0

    def app(self) -> ASGIApp:
        return Starlette(routes=[Route("/", self.page), Route("/token", self._token)])

    async def page(self, _: Request) -> Response:
        script = f'<script type="module" src="{self.chats}/chats-static/badge.js"></script>'
        policy = f"default-src 'none'; script-src {self.chats}; connect-src 'self' {self.chats}; img-src data:"
        page = (
            f'<!doctype html><title>Store</title><link rel="icon" href="data:,">{script}<header>{self.badge}</header>'
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def _token(self, _: Request) -> Response:
        self.tokens += 1
        if not self.signed_in:
            return Response(status_code=401)
        return JSONResponse({"token": issue_token(SETTINGS, {"sub": "anna", "role": "customer"}, self.lifetime)})


@pytest.fixture
def chats() -> Chats:
    [port] = free_ports([0])
    return Chats(f"http://127.0.0.1:{port}")


@pytest.fixture
async def store(chats: Chats) -> AsyncIterator[Store]:
    [port] = free_ports([0])
    store = Store(f"http://127.0.0.1:{port}", chats.url)
    async with served(chats.app(store.url), int(chats.url.rpartition(":")[2])), served(store.app(), port):
        yield store
        await chats.drop_streams()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context()
    yield context
    await context.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    recorded: list[str] = []
    yield recorded
    assert recorded == []


async def visit(context: BrowserContext, store: Store, complaints: list[str] | None = None) -> Page:
    page = await context.new_page()
    if complaints is not None:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(store.url)
    return page


async def number(page: Page) -> str | None:
    count = page.locator("chats-badge [part=count]")
    return await count.text_content() if await count.is_visible() else None


async def shows(page: Page, expected: str | None) -> None:
    async def as_expected() -> bool:
        return await number(page) == expected

    await eventually(as_expected)


async def test_the_count_is_shown_and_changes_live(
    chats: Chats, store: Store, context: BrowserContext, complaints: list[str]
) -> None:
    chats.unread = 3
    page = await visit(context, store, complaints)
    await shows(page, "3")
    await page.get_by_role("link", name="Messages 3 unread").wait_for()
    assert await page.get_by_role("status").text_content() == ""  # the first count is not announced
    await eventually(lambda: chats.streams)
    chats.set_unread(4)
    await shows(page, "4")
    await page.get_by_role("link", name="Messages 4 unread", exact=True).wait_for()
    assert await page.get_by_role("status").text_content() == "4 unread"
    chats.set_unread(1000)
    await shows(page, "999+")
    chats.set_unread(0)
    await shows(page, None)
    assert await page.get_by_role("status").text_content() == "0 unread"


async def test_with_an_href_the_badge_is_a_link_itself(chats: Chats, store: Store, context: BrowserContext) -> None:
    store.badge = """<chats-badge href="/inbox" label="Nachrichten, {count} ungelesen">Nachrichten</chats-badge>"""
    chats.unread = 1
    page = await visit(context, store)
    await page.evaluate("customElements.whenDefined('chats-badge')")
    badge = page.locator("chats-badge")  # whose attributes a framework sets later
    await badge.evaluate("(badge, base) => badge.setAttribute('base', base)", f"{chats.url}/")
    await badge.evaluate("(badge) => badge.setAttribute('token-url', '/token')")
    link = page.get_by_role("link", name="Nachrichten, 1 ungelesen")
    await link.wait_for()
    assert await link.get_attribute("href") == "/inbox"


async def test_all_tabs_of_a_browser_share_one_stream(chats: Chats, store: Store, context: BrowserContext) -> None:
    first, second, third = [await visit(context, store) for _ in range(3)]
    await eventually(lambda: chats.streams)
    chats.set_unread(2)
    for page in (first, second, third):
        await shows(page, "2")
    assert len(chats.streams) == 1
    await first.close()
    await eventually(lambda: len(chats.streams) == 1)
    chats.set_unread(5)
    for page in (second, third):
        await shows(page, "5")


async def test_changes_during_a_broken_stream_are_shown(chats: Chats, store: Store, context: BrowserContext) -> None:
    page = await visit(context, store)
    await eventually(lambda: chats.streams)
    chats.unread = 7
    await chats.drop_streams()
    await shows(page, "7")
    await eventually(lambda: chats.streams)


async def test_without_a_stream_the_count_is_polled(chats: Chats, store: Store, context: BrowserContext) -> None:
    chats.refuses_streams = True
    page = await visit(context, store)
    await eventually(lambda: chats.request_count >= 2)
    chats.unread = 6
    await shows(page, "6")


async def test_an_expired_token_is_replaced(chats: Chats, store: Store, context: BrowserContext) -> None:
    store.lifetime = timedelta(seconds=10)
    page = await visit(context, store)
    await eventually(lambda: chats.streams)
    before = store.tokens
    await chats.drop_streams()
    await eventually(lambda: chats.streams)
    assert store.tokens > before
    chats.set_unread(8)
    await shows(page, "8")


async def test_without_a_sign_in_the_badge_is_a_plain_link(chats: Chats, store: Store, context: BrowserContext) -> None:
    store.signed_in = False
    await context.clock.install()
    page = await visit(context, store)
    await eventually(lambda: store.tokens)
    await page.get_by_role("link", name="Messages", exact=True).wait_for()
    await context.clock.run_for(5 * 60_000)
    assert (chats.request_count, store.tokens) == (0, 1)
    store.signed_in, chats.unread = True, 2
    await page.evaluate("dispatchEvent(new Event('focus'))")
    await shows(page, "2")


async def test_the_console_says_why_a_token_is_refused(chats: Chats, store: Store, context: BrowserContext) -> None:
    chats.refuses_tokens, said = True, list[str]()
    await visit(context, store, said)
    await eventually(lambda: any("refused the token: bad_signature" in line for line in said))


async def test_on_the_chats_own_origin_the_session_is_used_and_renewed(
    chats: Chats, store: Store, context: BrowserContext
) -> None:
    chats.unread = 3
    store.url = chats.url
    page = await visit(context, store)
    await shows(page, "3")
    await eventually(lambda: chats.streams)
    chats.session, chats.unread = "renewed", 4
    await chats.drop_streams()
    await shows(page, "4")
    assert store.tokens == 0
