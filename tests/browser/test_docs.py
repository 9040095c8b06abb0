"""The documentation: its commands lead to a customer's message in a store; the API's page works under its policy."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect
from pydantic import SecretStr

from deploy.local.environment import write_private
from deploy.local.ports import free_ports
from services.notifications.app import create_app
from services.notifications.settings import ApiSettings
from shared.process.running import create_server
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import send
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import Processes, without_settings
from tests.system.helpers.small_stores import small_store

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "embedding.md"
by_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
READER = """
set -euo pipefail
curl() { command curl --fail-with-body "$@"; }
"""


@dataclass
class Terminal:
    """The second terminal of a reader of docs/embedding.md, in a folder like the repository's."""

    folder: Path
    site: Site
    environment: dict[str, str] = field(default_factory=without_settings)

    def __post_init__(self) -> None:
        (self.folder / ".data").mkdir()
        (self.folder / ".venv").symlink_to(ROOT / ".venv")
        port = str(urlsplit(self.site.origin).port)
        write_private(self.folder / ".data" / "chats.env", {**self.site.product.environment, "CHATS_PORT": port})

    async def run(self, *blocks: str) -> str:
        """Run blocks of commands, each of which must succeed. What they export is there for the next ones."""
        text = "\n".join(blocks).replace("http://127.0.0.1:8090", self.site.example_url)
        text = text.replace("127.0.0.1:${CHATS_PORT:-8000}", urlsplit(self.site.origin).netloc)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"{READER}\n{text}\nenv -0 > exported"),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        exported = (self.folder / "exported").read_text().split("\0")
        self.environment = dict(line.split("=", 1) for line in exported if line and not line.startswith("BASH_FUNC"))
        return printed.decode()


def commands() -> tuple[list[str], list[str]]:
    """Return the blocks of commands in the steps, and those after them."""
    steps, _, reference = DOCUMENT.read_text().partition("The other commands on this page")
    first, second = (re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL) for part in (steps, reference))
    return first, second


@by_curl
@pytest.mark.timeout(300)  # with a store's and ten commands' starts
async def test_the_steps_lead_from_a_clone_to_an_answer_in_a_store(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    (start, *blocks), _ = commands()
    assert start.endswith(" make run\n")
    terminal = Terminal(tmp_path, site)
    assert "No faults, no warnings." in await terminal.run(*blocks)
    assert terminal.environment["CHATS_WEBHOOK_SECRET"].startswith("whsec_")
    async with flask_store(terminal), visitors(browser, site) as (anna, sam):
        await anna.get_by_role("button", name="Anna").click()
        await anna.get_by_role("button", name="Order a teapot").click()
        await expect(anna.get_by_role("button", name="Messages")).to_be_visible()  # the messenger's script has run
        await anna.get_by_role("link", name="Ask about it").click()
        panel = anna.frame_locator("chats-messenger iframe")
        await expect(panel.get_by_label("Subject")).to_have_value("Order 1001")
        await panel.get_by_label("Message", exact=True).fill("Is it blue?")
        await panel.get_by_role("button", name="Send").click()
        await expect(panel.get_by_text("Is it blue?")).to_be_visible()

        await sam.get_by_role("button", name="Sam").click()
        await sam.get_by_role("link", name="Messages").click()
        await sam.get_by_role("button", name="Open the messages").click()
        await sam.get_by_role("link", name="Order 1001").click()
        await send(sam, "It is.")
        await expect(panel.get_by_text("It is.", exact=True)).to_be_visible()

        async def events() -> bool:
            await sam.goto(site.example_url)
            return await sam.get_by_text("Events: conversation.created, message.posted, message.posted").is_visible()

        await eventually(events)


@by_curl
@pytest.mark.timeout(300)
async def test_the_other_commands_work_after_them(site: Site, tmp_path: Path) -> None:
    _, blocks = commands()
    text = "\n".join(blocks).replace("--max-time 5", "--max-time 1")
    printed = await Terminal(tmp_path, site).run(text.replace("$chats status", "$chats status || true"))
    assert "It arrives tomorrow. Sorry!" in printed
    assert "event: unread" in printed


@asynccontextmanager
async def flask_store(terminal: Terminal) -> AsyncIterator[None]:
    """Run the store in Flask from the reader's terminal. The webhook ends with it."""
    processes = Processes({}, lambda name: small_store(name, terminal.folder, terminal.environment))
    product = terminal.site.product
    try:
        await processes.start("flask")
        yield
    finally:
        await processes.close()
        for webhook in (await product.call("GET", "/api/v1/store/webhooks", "shop", "store")).json()["items"]:
            await product.call("DELETE", f"/api/v1/store/webhooks/{webhook['id']}", "shop", "store")


@asynccontextmanager
async def visitors(browser: Browser, site: Site) -> AsyncIterator[tuple[Page, Page]]:
    """Open the store in two browsers. Complaints of their consoles fail the test."""
    complaints: list[str] = []
    contexts = [await browser.new_context(), await browser.new_context()]
    anna, sam = [await context.new_page() for context in contexts]
    for page in (anna, sam):
        page.on("console", lambda message: complaints.append(f"{message.text} {message.location['url']}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(site.example_url)
    yield anna, sam
    for context in contexts:
        await context.close()
    assert complaints == []


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """A running API; its documentation needs no database."""
    [port] = free_ports([0])
    secret = SecretStr("a secret for tests with 32 bytes or more")
    settings = ApiSettings(notifications_database_url="postgresql://127.0.0.1:1/nowhere", auth_secret=[secret])
    running = create_server(create_app(settings), "127.0.0.1", port)
    task = asyncio.create_task(running._serve())  # noqa: SLF001 - serve() replaces the test run's signal handlers
    await eventually(lambda: running.started)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    await task


async def test_the_documentation_can_be_read_and_tried_without_console_errors(origin: str, browser: Browser) -> None:
    errors: list[str] = []
    page = await browser.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.goto(f"{origin}/api/v1/notifications/docs")
    operation = page.locator(".opblock").first
    await operation.locator(".opblock-summary-control").click()
    await operation.locator(".try-out__btn").click()
    assert not errors, errors
    await operation.locator(".execute").click()
    await expect(operation.locator(".live-responses-table .response .response-col_status")).to_contain_text("401")
    await page.close()
    assert all(url.startswith((origin, "data:")) for url in requested)
    assert all("401" in error for error in errors)  # the request that was tried, without a token
