"""Run a real browser against the whole product. Without Chromium these tests are skipped; in CI they fail."""

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from deploy.local.processes import Spawn
from tests.browser.helpers.chromium import CHROMIUM, HEADED, MISSING
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site, running_site

_REPORT = pytest.StashKey[pytest.TestReport]()

expect.set_options(timeout=20_000)


def pytest_pycollect_makemodule() -> None:
    """Report a missing browser once, not for every test."""
    if CHROMIUM is None and os.environ.get("CI"):
        pytest.fail(MISSING, pytrace=False)
    if CHROMIUM is None:
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Share one browser between all tests; HEADED=1 shows it in slow motion."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's sandbox does not work for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=sandbox, headless=not HEADED, slow_mo=300 if HEADED else 0
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory, fork: Spawn) -> AsyncIterator[Site]:
    """Run the whole product once for all tests. Tests leave it running."""
    async with running_site(tmp_path_factory.mktemp("site"), fork) as site:
        yield site


@pytest.fixture
async def people(browser: Browser, site: Site, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[People]:
    """Return the users of a test. Errors in their pages fail the test."""
    people = People(browser, site)
    yield people
    report = request.node.stash.get(_REPORT, None)
    if report is None or report.failed:
        screenshots = await people.take_screenshots(tmp_path)
        request.node.add_report_section("teardown", "screen", "\n".join(map(str, screenshots)))
    if faults := await people.close():
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Store the test's report where fixtures find it."""
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report
