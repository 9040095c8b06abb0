"""A real browser in front of the whole product. Without a Chromium these tests are skipped, in CI they fail."""

import os
import shutil
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site, running_site

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)  # the system's, which its packages keep up to date
MISSING = "no Chromium on the PATH; on Debian and Ubuntu: apt install chromium"
_REPORT = pytest.StashKey[pytest.TestReport]()

expect.set_options(timeout=20_000)


def pytest_pycollect_makemodule() -> None:
    """Tell once for all of these tests that there is no browser."""
    if CHROMIUM is None and os.environ.get("CI"):
        pytest.fail(MISSING, pytrace=False)
    if CHROMIUM is None:
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; HEADED=1 shows it, slowly."""
    headed = bool(os.environ.get("HEADED"))
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=sandbox, headless=not headed, slow_mo=300 if headed else 0
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The whole product, which a test leaves running as it found it."""
    async with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
async def people(browser: Browser, site: Site, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[People]:
    """Whoever comes with a browser. What their pages complain of fails the test, too."""
    people = People(browser, site)
    yield people
    report = request.node.stash.get(_REPORT, None)
    if report is None or report.failed:
        pictures = await people.photograph(tmp_path)
        request.node.add_report_section("teardown", "screen", "\n".join(map(str, pictures)))
    if faults := await people.leave():
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know how the test went."""
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report
