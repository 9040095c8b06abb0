"""Play a support agent's hour in a real Chromium: `python -m bench.agent_hour`, BASE=COMMIT for the build before.

The whole product runs with 60 waiting conversations. The agent takes each of them, the longest waiting first: of ten,
six get an answer, two an answer and are resolved, one is resolved without an answer, and one is marked as unread for
later. The hour is played by mouse and again by keyboard. Counted are clicks and keys other than text, and each wait,
from a click or key until its result is on the screen. With BASE, another process plays the same hour with that build.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from playwright.async_api import Browser, Error, Page, async_playwright, expect
from pydantic import SecretStr

from deploy.local.processes import spawn
from shared.settings import TokenSettings
from tests.browser.helpers.chromium import CHROMIUM
from tests.browser.helpers.site import Site, running_site
from tests.system.helpers.product import SECRET

try:
    from shared.auth.tokens import issue_token
except ModuleNotFoundError:  # the other build is of a time when `shared` had no packages
    from shared.auth import issue_token  # type: ignore[attr-defined,no-redef]

COUNT = int(os.environ.get("COUNT", "60"))
ANSWER, RESOLVE, BOTH, LATER = "answer", "resolve", "answer and resolve", "later"
ACTS = (ANSWER, ANSWER, BOTH, ANSWER, RESOLVE, ANSWER, ANSWER, BOTH, LATER, ANSWER)
INBOX = "/admin/dashboard/conversation/"
WAITING = f"{INBOX}?status=OPEN&status=AWAITING_ADMIN&sort=waiting"
TEXT = "Hello! Your parcel left our warehouse this morning and should be with you on Thursday."


@dataclass
class Hands:
    """The agent's hands and eyes: acts, counts, and waits until a result is on the screen."""

    page: Page
    clicks: int = 0
    keys: int = 0
    waits: list[tuple[float, str]] = field(default_factory=list)
    _acted: float = 0.0

    async def click(self, selector: str) -> None:
        """Click an element."""
        element = self.page.locator(selector)
        await expect(element).to_be_visible()
        self.clicks += 1
        self._acted = time.perf_counter()
        await element.click()

    async def press(self, *keys: str) -> None:
        """Press keys, or combinations of keys."""
        for key in keys:
            self.keys += 1
            self._acted = time.perf_counter()
            await self.page.keyboard.press(key)

    async def go_back(self) -> None:
        """Go back by the browser's own key, which reaches no page."""
        self.keys += 1
        self._acted = time.perf_counter()
        await self.page.go_back()

    async def choose(self, path: str) -> None:
        """Follow a link or a bookmark."""
        self.clicks += 1
        self._acted = time.perf_counter()
        await self.page.goto(self.page.url.partition("/admin/")[0] + path)

    async def write(self, text: str) -> None:
        """Type a text."""
        await expect(self.page.locator("#reply_body")).to_be_focused()
        await self.page.keyboard.insert_text(text)

    async def see(self, what: str, condition: str) -> None:
        """Wait until the page is ready and a condition in JavaScript holds, looked at once a frame."""
        condition = f"document.readyState === 'complete' && ({condition})"
        look = f"new Promise((done) => (function look() {{ {condition} ? done() : requestAnimationFrame(look); }})())"
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.page.evaluate(look)
                    break
                except Error as error:  # the page was left meanwhile
                    if "context" not in error.message:
                        raise
        self.waits.append((time.perf_counter() - self._acted, what))


class Agent:
    """An agent at the inbox. In builds with `beside`, conversations open beside it, else on a page of their own."""

    def __init__(self, hands: Hands, *, beside: bool, uses_keys: bool) -> None:
        self._hands = hands
        self._beside = beside
        self._uses_keys = uses_keys

    async def take(self, conversation: str, act: str, text: str) -> None:
        """Open a conversation, do what it needs, and be ready for the next one."""
        await self._open(conversation)
        if act in {ANSWER, BOTH}:
            await self._answer(text, resolves=act == BOTH)
        elif act == RESOLVE:
            await self._resolve()
        else:
            await self._mark_unread(conversation)
        if not self._beside:
            if act == LATER:  # this leads back by itself, but to all conversations
                await self._hands.choose(WAITING)
            else:
                await self._go_back()
            await self._hands.see("back to the list", _IS_LIST)

    async def _open(self, conversation: str) -> None:
        shown = f"document.querySelector('[data-thread=\"{conversation}\"] #messages .message')"
        if not self._uses_keys:
            await self._hands.click(f"#open-{conversation}")
        elif not await self._hands.page.evaluate(f"Boolean({shown})"):  # resolving has selected it
            is_selected = f"document.activeElement?.closest('.row')?.id === 'c-{conversation}'"
            while not await self._hands.page.evaluate(is_selected):
                await self._hands.press("j")
            if not self._beside:
                await self._hands.press("Enter")
        await self._hands.see("open", shown)

    async def _answer(self, text: str, *, resolves: bool) -> None:
        await (self._hands.press("r") if self._uses_keys else self._hands.click("#reply_body"))
        await self._hands.write(text)
        if not self._uses_keys:
            await self._hands.click("#send-resolve" if resolves else "#send")
        else:
            await self._hands.press("Control+Shift+Enter" if resolves and self._beside else "Control+Enter")
        await self._hands.see("send", f"[...{_SENT}].some((body) => body.textContent.trim() === {text!r})")
        if self._uses_keys:
            await self._hands.press("Escape")  # leaves the reply
            if resolves and not self._beside:  # no key sends and resolves
                await self._resolve()

    async def _resolve(self) -> None:
        if self._uses_keys:
            await self._hands.press("e")
        elif self._beside:
            await self._hands.click("#resolve-now button")
        else:
            await self._hands.click("#set-status summary")
            await self._hands.click("#set-status button[value=RESOLVED]")
        if self._uses_keys and self._beside:
            return  # the next one is on the screen
        await self._hands.see("resolve", "document.querySelector('#status').textContent.trim() === 'Resolved'")

    async def _mark_unread(self, conversation: str) -> None:
        await (self._hands.press("u") if self._uses_keys else self._hands.click("#mark-unread button"))
        is_marked = f"document.querySelector('#c-{conversation}.unread')" if self._beside else _IS_LIST
        await self._hands.see("mark as unread", is_marked)

    async def _go_back(self) -> None:
        if self._uses_keys:
            await self._hands.go_back()
        else:
            await self._hands.click(".thread-head .back a")


_IS_LIST = "location.pathname.endsWith('/conversation/')"
_SENT = "document.querySelectorAll('#messages .message:not(.pending) .body')"


async def main() -> None:
    """Play the hours and print what they cost."""
    if base := os.environ.pop("BASE", None):
        _play_before(base)
    with tempfile.TemporaryDirectory() as directory:
        async with running_site(Path(directory), spawn) as site, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for uses_keys in (False, True):
                hands = await _play(site, browser, uses_keys=uses_keys)
                _print("by keyboard" if uses_keys else "by mouse", hands)
            await browser.close()


async def _play(site: Site, browser: Browser, *, uses_keys: bool) -> Hands:
    conversations = await _prepare(site)
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    claims = {"sub": "agent", "role": "admin", "name": "Sam"}
    token = issue_token(TokenSettings(auth_secret=[SecretStr(SECRET)]), claims, timedelta(minutes=4))
    await context.request.post(f"{site.origin}/session", form={"token": token, "next": INBOX})
    page = await context.new_page()
    await page.goto(site.origin + WAITING)
    hands, beside = Hands(page), await page.locator("#inbox").count() > 0
    agent = Agent(hands, beside=beside, uses_keys=uses_keys)
    for number, conversation in enumerate(conversations):
        await _load_rows(page, conversation)
        await agent.take(conversation, ACTS[number % len(ACTS)], f"{TEXT} ({number})")
    await context.close()
    await site.delete_everything()
    return hands


async def _load_rows(page: Page, conversation: str) -> None:
    """Apply the filter again when the list is worked through; a real list is loaded once for 25 conversations."""
    if await page.locator(f"#open-{conversation}").count() == 0:
        await page.goto(page.url.partition("/admin/")[0] + WAITING)
        await page.locator(f"#open-{conversation}").wait_for()


async def _prepare(site: Site) -> Sequence[str]:
    """Open conversations of as many customers; return their ids, the longest waiting first."""
    conversations = []
    for number in range(COUNT):
        sub = f"customer-{number}"
        await site.sync(f"users/{sub}", name=f"Customer {number}", role="customer")
        order = await site.order(sub, f"A-{1000 + number}")
        body = "Where is my parcel? It should have been here on Monday, and nobody at the post office knows."
        conversations.append(await site.open_conversation(sub, f"Parcel {number}", body, order_id=order))
    return conversations


def _print(how: str, hands: Hands) -> None:
    print(f"{how}: {hands.clicks / COUNT:.2f} clicks and {hands.keys / COUNT:.2f} keys a conversation")
    for name in (*dict.fromkeys(name for _, name in hands.waits), None):
        times = sorted(seconds * 1e3 for seconds, waited_for in hands.waits if name in {None, waited_for})
        p95 = times[int(len(times) * 0.95)]
        print(
            f"  {name or 'all waits':18} {len(times):4}   median {statistics.median(times):4.0f} ms"
            f"   p95 {p95:4.0f} ms   longest {times[-1]:4.0f} ms",
            flush=True,
        )


def _play_before(commit: str) -> None:
    """Play the same hour with another build, beside this checkout."""
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as name:
        checkout = Path(name) / "base"
        git = ["git", "-C", str(here), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(checkout), commit], check=True)  # noqa: S603 - git
        try:
            print(f"with {commit}:", flush=True)
            environment = os.environ | {"PYTHONPATH": str(checkout)}
            subprocess.run([sys.executable, __file__], cwd=checkout, env=environment, check=True)  # noqa: S603 - this file
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)  # noqa: S603 - git
    print("with this checkout:", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
