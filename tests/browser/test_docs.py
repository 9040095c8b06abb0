"""The API documentation page in a real browser: all of it works under its own strict policy."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect
from pydantic import SecretStr

from deploy.local.ports import free_ports
from services.notifications.app import create_app
from services.notifications.settings import ApiSettings
from shared.processes import create_server
from tests.helpers.waiting import eventually


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
