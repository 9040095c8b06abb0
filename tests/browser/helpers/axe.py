"""Check accessibility with axe."""

import os
from typing import Any, Literal
from zlib import crc32

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Frame, Page

ALL = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
Scheme = Literal["light", "dark"]
View = tuple[int, Scheme, dict[str, Any]]
VIEWS: list[View] = [(390, "light", ALL), (1280, "dark", ALL)]
OTHER_COLOURS: list[View] = [(390, "dark", COLOURS), (1280, "light", COLOURS)]


def _views(state: str) -> list[View]:
    """Return the views of a state: one of both, chosen by its name, as states have most of a page in common."""
    return [*VIEWS, *OTHER_COLOURS] if os.environ.get("EVERY_CASE") else [VIEWS[crc32(state.encode()) % 2]]


async def expect_accessible(page: Page, state: str, frame: Frame | None = None) -> None:
    """Assert that axe finds no violation on a page, narrow and light or wide and dark; with EVERY_CASE=1, in all four.

    With a frame, in that frame of the page: the page itself is checked without its frames.
    """
    shown = frame or page.main_frame
    findings: list[str] = []
    if not await shown.evaluate("() => 'axe' in window"):
        await shown.evaluate(AXE_SCRIPT)
    for width, scheme, options in _views(state):
        await _show(page, width, scheme)
        results = await shown.evaluate(_RUN, options)
        findings += [f"{state} ({width} px, {scheme}): {line}" for line in map(_line, results)]
    await _show(page, 1280, "dark")  # the test continues in one view for all states
    assert not findings, "\n".join(findings)


async def _show(page: Page, width: int, scheme: Scheme) -> None:
    await page.set_viewport_size({"width": width, "height": 900})
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # colours must not be mid-transition


_RUN = """(options) => axe.run(document, { ...options, resultTypes: ["violations"], iframes: false })
    .then(({ violations }) =>
    violations.flatMap(({ id, help, nodes }) => nodes.map(({ html, any, all, none }) =>
        ({ id, help, html, why: [...any, ...all, ...none].map((check) => check.message) }))))"""


def _line(violation: dict[str, Any]) -> str:
    return f"{violation['id']}, {violation['help']}: {violation['html'][:300]} {'; '.join(violation['why'])[:300]}"
