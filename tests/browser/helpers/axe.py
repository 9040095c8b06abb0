"""Accessibility as axe finds it."""

from typing import Any, Literal

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

ALL = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
Scheme = Literal["light", "dark"]
LOOKS: tuple[tuple[int, Scheme, dict[str, Any]], ...] = (
    (390, "light", ALL),
    (390, "dark", COLOURS),
    (1280, "dark", ALL),
    (1280, "light", COLOURS),
)


async def expect_accessible(page: Page, state: str) -> None:
    """Make sure that axe finds nothing in what a page shows, small and large, light and dark."""
    findings: list[str] = []
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE_SCRIPT)
    for width, scheme, options in LOOKS:
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour on its way to another
        results = await page.evaluate(_RUN, options)
        findings += [f"{state} ({width} px, {scheme}): {line}" for line in map(_line, results)]
    assert not findings, "\n".join(findings)


_RUN = """(options) => axe.run(document, { ...options, resultTypes: ["violations"] }).then(({ violations }) =>
    violations.flatMap(({ id, help, nodes }) => nodes.map(({ html, any, all, none }) =>
        ({ id, help, html, why: [...any, ...all, ...none].map((check) => check.message) }))))"""


def _line(found: dict[str, Any]) -> str:
    return f"{found['id']}, {found['help']}: {found['html'][:300]} {'; '.join(found['why'])[:300]}"
