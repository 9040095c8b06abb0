"""Users with browsers. Console errors, failed requests and requests to other origins are recorded as faults."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, WebError

from tests.browser.helpers.site import Site, address_of

HOME = {"customer": "/dashboard/messages/", "admin": "/admin/dashboard/conversation/"}
CANCELLED = "net::ERR_ABORTED"  # the page was left while a request was running
SEE_OTHER = 303
SERVER_ERROR = 500


@dataclass
class Person:
    """A user with a browser context of their own; `page` is its first tab."""

    id: str
    role: str
    site: Site
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    _expected: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        """Return the path of the user's list of conversations."""
        return HOME[self.role]

    async def go(self, path: str | None = None) -> Page:
        """Open a path of the product in the first tab, by default the user's list."""
        await self.page.goto(self.site.origin + (path if path is not None else self.home))
        return self.page

    async def open(self, conversation: str) -> Page:
        """Open a conversation in the first tab."""
        return await self.go(f"{self.home}{conversation}/")

    async def begin_session(self, path: str | None = None) -> None:
        """Enter the product as `enter` does, without the store's page, which costs as much as a page of ours."""
        token = self.site.store.token(self.id, self.role)
        fields: dict[str, str | float | bool] = {"token": token, "next": path or self.home}
        answer = await self.context.request.post(
            f"{self.site.origin}/session", form=fields, headers={"Origin": self.site.store.url}, max_redirects=0
        )
        assert answer.status == SEE_OTHER, await answer.text()
        await self.page.goto(self.site.origin + answer.headers["location"])

    async def enter(self, path: str | None = None) -> None:
        """Enter the product from the store by its button."""
        await self.page.goto(self.site.store.entry_url(self.id, self.role, path or self.home))
        await self.page.get_by_role("button", name="To my messages").click()

    def expect_complaints(self, *patterns: str) -> None:
        """Allow complaints that match a pattern, for tests that break something on purpose."""
        self._expected += patterns

    @property
    def faults(self) -> list[str]:
        """Return the unexpected complaints."""
        return [text for text in self.complaints if not any(re.search(pattern, text) for pattern in self._expected)]

    def watch(self) -> None:
        """Record everything that goes wrong in this browser from now on."""
        self.context.on("console", self._on_console)
        self.context.on("weberror", self._on_error)
        self.context.on("request", self._on_request)
        self.context.on("requestfailed", self._on_failure)
        self.context.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._note(f"console: {message.text} ({message.location.get('url')})")

    def _on_error(self, error: WebError) -> None:
        self._note(f"exception: {error.error}")

    def _on_request(self, request: Request) -> None:
        url = request.url
        # Playwright also reports where scripts' requests are redirected to, although the policy forbids to follow.
        leaves = (request.is_navigation_request() or request.redirected_from) and url.startswith(self.site.store.url)
        if not (url.startswith((f"{self.site.origin}/", "data:")) or leaves or self._is_at_store(request)):
            self._note(f"asked another origin: {request.method} {url}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != CANCELLED:
            self._note(f"failed: {request.method} {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= SERVER_ERROR:
            self._note(f"server error: {response.status} {response.url}")

    def _is_at_store(self, request: Request) -> bool:
        return request.frame.url.startswith(self.site.store.url)

    def _note(self, complaint: str) -> None:
        self.complaints.append(complaint)


class People:
    """All users of a test."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self._browser = browser
        self._site = site
        self._people: list[Person] = []

    async def create_user(self, name: str, *, role: str = "customer", shown: str | None = None, **profile: str) -> str:
        """Sync a new user from the store; return their id."""
        user_id = f"{name}-{uuid4().hex[:6]}"
        fields = {"name": shown or name.title(), "email": address_of(user_id), **profile}
        await self._site.sync(f"users/{user_id}", role=role, **fields)
        return user_id

    async def sign_in(
        self, name: str, *, role: str = "customer", shown: str | None = None, path: str | None = None, **options: Any
    ) -> Person:
        """Sync a new user and sign them in from the store; `options` are the browser context's."""
        return await self.at_browser(
            await self.create_user(name, role=role, shown=shown), role=role, path=path, **options
        )

    async def at_browser(
        self, user_id: str, *, role: str = "customer", path: str | None = None, **options: Any
    ) -> Person:
        """Sign in an existing user from the store, in another browser."""
        context = await self._browser.new_context(**options)
        context.set_default_timeout(20_000)
        person = Person(user_id, role, self._site, context, await context.new_page())
        self._people.append(person)
        if not options.get("java_script_enabled", True):
            person.expect_complaints(r"/chats-static/.*\.js csp$")  # preloaded modules, which such a browser refuses
        person.watch()
        await person.begin_session(path)
        return person

    async def take_screenshots(self, directory: Path) -> list[Path]:
        """Save a screenshot of each open page."""
        screenshots: list[Path] = []
        for person in self._people:
            for number, page in enumerate(person.context.pages):
                path = directory / f"{person.id}-{number}.png"
                await page.screenshot(path=path, animations="disabled")
                screenshots.append(path)
        return screenshots

    async def close(self) -> list[str]:
        """Close all browsers; return the faults found in them."""
        faults = [f"{person.id}: {fault}" for person in self._people for fault in person.faults]
        for person in self._people:
            await person.context.close()
        return faults
