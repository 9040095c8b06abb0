"""Measure the time from one side's POST until the other side's stream delivers the message, in both directions.

Against a running system (`make run`): `python -m bench.live_latency`. The yardstick in the same run is the POST itself,
which shows the machine's noise.
"""

import asyncio
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path

import httpx2
from dotenv import dotenv_values

from shared.auth.tokens import issue_token
from shared.settings import TokenSettings, read_settings
from tests.helpers.sse_client import Reader, reading

ROUNDS = 200
BETWEEN = 0.05  # seconds; varied, so that posts hit the relay's poll at any phase


async def main() -> None:
    """Measure and print."""
    local = dotenv_values(Path(os.environ.get("CHATS_DATA_DIR", ".data")) / "chats.env")
    os.environ.update({name: value for name, value in local.items() if value and name not in os.environ})
    origin = os.environ["CHATS_PUBLIC_URL"]
    customer, admin = _headers("bench-customer", "customer"), _headers("bench-admin", "admin")
    posts: list[float] = []
    received: list[float] = []
    async with (
        httpx2.AsyncClient(base_url=f"{origin}/api/v1", timeout=30) as client,
        reading(origin, customer) as to_customer,
        reading(origin, admin) as to_admin,
    ):
        opened = await client.post("/conversations", headers=customer, json={"subject": "Latency", "body": "Hello"})
        opened.raise_for_status()
        talk = opened.json()["id"]
        sides = (
            (f"/conversations/{talk}/messages", customer, to_admin),
            (f"/admin/conversations/{talk}/messages", admin, to_customer),
        )
        for number in range(ROUNDS):
            path, headers, reader = sides[number % 2]
            started = time.perf_counter()
            posted = await client.post(path, headers=headers, json={"body": f"Message {number}"})
            posts.append(time.perf_counter() - started)
            posted.raise_for_status()
            received.append(await _received_at(reader, posted.json()["id"]) - started)
            await asyncio.sleep(BETWEEN * (number % 10) / 10)
    _print("POST answered (yardstick)", posts)
    _print("received by the other side's stream", received)
    print(f"ratio of the medians: {statistics.median(received) / statistics.median(posts):.1f}")


async def _received_at(reader: Reader, message_id: str) -> float:
    """Return when the stream delivered a message, by `perf_counter`."""
    async with asyncio.timeout(30):
        while True:
            for event in reversed(reader.events):
                if event.event == "message.posted" and event.data["message"]["id"] == message_id:
                    return event.at
            await asyncio.sleep(0.001)


def _headers(sub: str, role: str) -> dict[str, str]:
    token = issue_token(read_settings(TokenSettings), {"sub": sub, "role": role}, timedelta(hours=1))
    return {"Authorization": f"Bearer {token}"}


def _print(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    median, p99, worst = statistics.median(ordered), ordered[int(len(ordered) * 0.99)], ordered[-1]
    print(f"{what:<28} median {median * 1000:6.1f} ms   p99 {p99 * 1000:6.1f} ms   worst {worst * 1000:6.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
