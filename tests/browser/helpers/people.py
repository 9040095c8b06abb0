"""People at browsers. A page that complains, fails to load something or asks another origin for anything is a fault."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, WebError

from tests.browser.helpers.site import Site, address_of

HOME = {"customer": "/dashboard/messages/", "admin": "/admin/dashboard/conversation/"}
CANCELLED = "net::ERR_ABORTED"  # a page was left while it loaded something
SERVER_ERROR = 500


@dataclass
class Person:
    """Somebody at a browser, which is theirs alone; `page` is its first tab."""

    id: str
    role: str
    site: Site
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    _expected: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        """Return the path of their list."""
        return HOME[self.role]

    async def go(self, path: str | None = None) -> Page:
        """Open a path of the product in the first tab, their list unless another is named."""
        await self.page.goto(self.site.origin + (path if path is not None else self.home))
        return self.page

    async def open(self, conversation: str) -> Page:
        """Open a conversation in the first tab."""
        return await self.go(f"{self.home}{conversation}/")

    async def enter(self, path: str | None = None) -> None:
        """Come to the product from the store, by its button."""
        await self.page.goto(self.site.store.way_in(self.id, self.role, path or self.home))
        await self.page.get_by_role("button", name="To my messages").click()

    def expect_complaints(self, *patterns: str) -> None:
        """Allow the pages to complain so: a test breaks something on purpose."""
        self._expected += patterns

    @property
    def faults(self) -> list[str]:
        """Return the complaints that nobody expected."""
        return [said for said in self.complaints if not any(re.search(pattern, said) for pattern in self._expected)]

    def watch(self) -> None:
        """Note from now on whatever goes wrong in this browser."""
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
        # Also told of where an answer to a script points, which no page of ours follows: the policy forbids it.
        leaves = (request.is_navigation_request() or request.redirected_from) and url.startswith(self.site.store.url)
        if not (url.startswith((f"{self.site.origin}/", "data:")) or leaves or self._is_at_store(request)):
            self._note(f"asked another origin: {request.method} {url}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != CANCELLED:
            self._note(f"failed: {request.method} {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= SERVER_ERROR:
            self._note(f"answered: {response.status} {response.url}")

    def _is_at_store(self, request: Request) -> bool:
        return request.frame.url.startswith(self.site.store.url)

    def _note(self, complaint: str) -> None:
        self.complaints.append(complaint)


class People:
    """Everybody who takes part in a test."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self._browser = browser
        self._site = site
        self._there: list[Person] = []

    async def know(self, name: str, *, role: str = "customer", shown: str | None = None, **profile: str) -> str:
        """Let the store tell of somebody new; return their id."""
        identity = f"{name}-{uuid4().hex[:6]}"
        fields = {"name": shown or name.title(), "email": address_of(identity), **profile}
        await self._site.sync(f"users/{identity}", role=role, **fields)
        return identity

    async def sign_in(
        self, name: str, *, role: str = "customer", shown: str | None = None, path: str | None = None, **options: Any
    ) -> Person:
        """Let somebody new in by the store; `options` are the browser's."""
        return await self.at_browser(await self.know(name, role=role, shown=shown), role=role, path=path, **options)

    async def at_browser(
        self, identity: str, *, role: str = "customer", path: str | None = None, **options: Any
    ) -> Person:
        """Let somebody in by the store who is known to it, at another browser."""
        context = await self._browser.new_context(**options)
        context.set_default_timeout(20_000)
        person = Person(identity, role, self._site, context, await context.new_page())
        self._there.append(person)
        person.watch()
        await person.enter(path)
        return person

    async def photograph(self, directory: Path) -> list[Path]:
        """Take a picture of each open page."""
        pictures: list[Path] = []
        for person in self._there:
            for number, page in enumerate(person.context.pages):
                path = directory / f"{person.id}-{number}.png"
                await page.screenshot(path=path, animations="disabled")
                pictures.append(path)
        return pictures

    async def leave(self) -> list[str]:
        """Close all browsers; return what went wrong in them."""
        faults = [f"{person.id}: {fault}" for person in self._there for fault in person.faults]
        for person in self._there:
            await person.context.close()
        return faults
