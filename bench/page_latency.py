"""Measure the time from an admin's POST until the message is on the customer's screen.

Against a running system (`make run`), with Chromium installed: `python -m bench.page_latency`. A real browser has the
conversation open, and records when the message appears. The yardstick in the same run is the POST itself.
"""

import asyncio
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path

import httpx2
from dotenv import dotenv_values
from playwright.async_api import Page, async_playwright

from shared.auth.tokens import issue_token
from shared.settings import TokenSettings, read_settings
from tests.browser.helpers.chromium import CHROMIUM

ROUNDS = 100
APART = 0.3  # seconds between messages, so that the page is idle when one arrives

# Both clocks are this machine's.
NOTE_ARRIVALS = """() => {
  window.arrivals = {};
  new MutationObserver(() => {
    for (const body of document.querySelectorAll("#messages .message .body")) arrivals[body.textContent] ??= Date.now();
  }).observe(document.getElementById("messages"), { childList: true });
}"""


async def main() -> None:
    """Measure and print."""
    local = dotenv_values(Path(os.environ.get("CHATS_DATA_DIR", ".data")) / "chats.env")
    os.environ.update({name: value for name, value in local.items() if value and name not in os.environ})
    origin = os.environ["CHATS_PUBLIC_URL"]
    async with async_playwright() as playwright, httpx2.AsyncClient(base_url=origin) as client:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context()
        await context.request.post(f"{origin}/session", form={"token": _token("bench-customer", "customer")})
        opened = await client.post(
            "/api/v1/conversations",
            headers={"Authorization": f"Bearer {_token('bench-customer', 'customer')}"},
            json={"subject": "Latency", "body": "Hello"},
        )
        opened.raise_for_status()
        page = await context.new_page()
        async with page.expect_response("**/api/v1/stream*"):
            await page.goto(f"{origin}/dashboard/messages/{opened.json()['id']}/")
        await page.evaluate(NOTE_ARRIVALS)
        posts, screens = await _measure(client, page, f"/api/v1/admin/conversations/{opened.json()['id']}/messages")
        await browser.close()
    _print("POST answered (yardstick)", posts)
    _print("on the other screen", screens)
    print(f"ratio of the medians: {statistics.median(screens) / statistics.median(posts):.1f}")


async def _measure(client: httpx2.AsyncClient, page: Page, path: str) -> tuple[list[float], list[float]]:
    headers = {"Authorization": f"Bearer {_token('bench-admin', 'admin')}"}
    posts, starts = [], []
    for number in range(ROUNDS):
        starts.append(time.time())
        (await client.post(path, headers=headers, json={"body": f"Answer {number}"})).raise_for_status()
        posts.append(time.time() - starts[-1])
        await page.get_by_text(f"Answer {number}", exact=True).wait_for()
        await asyncio.sleep(APART)
    arrivals = await page.evaluate("window.arrivals")
    return posts, [arrivals[f"Answer {number}"] / 1000 - start for number, start in enumerate(starts)]


def _token(sub: str, role: str) -> str:
    return issue_token(read_settings(TokenSettings), {"sub": sub, "role": role}, timedelta(minutes=5))


def _print(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    median, p95, worst = statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1]
    print(f"{what:<28} median {median * 1000:6.1f} ms   p95 {p95 * 1000:6.1f} ms   worst {worst * 1000:6.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
