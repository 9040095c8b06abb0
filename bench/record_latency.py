"""Measure the time from an admin's POST until the customer's `NEW_MESSAGE` notification can be read.

Against a running system (`make run`): `python bench/record_latency.py`. The yardstick in the same run is the POST
itself, which shows the machine's noise.
"""

import os
import statistics
import time
from datetime import timedelta
from pathlib import Path

import httpx2
from dotenv import dotenv_values

from shared.auth.tokens import issue_token
from shared.settings import TokenSettings, read_settings

ROUNDS = 100
PAUSE = 0.02  # seconds between polls for the notification


def main() -> None:
    """Measure and print."""
    local = dotenv_values(Path(os.environ.get("CHATS_DATA_DIR", ".data")) / "chats.env")
    os.environ.update({name: value for name, value in local.items() if value and name not in os.environ})
    origin = os.environ["CHATS_PUBLIC_URL"]
    posts, records = [], []
    with httpx2.Client(base_url=f"{origin}/api/v1") as client:
        customer, admin = _headers("bench-customer", "customer"), _headers("bench-admin", "admin")
        opened = client.post("/conversations", headers=customer, json={"subject": "Latency", "body": "Hello"})
        opened.raise_for_status()
        path = f"/admin/conversations/{opened.json()['id']}/messages"
        for number in range(ROUNDS):
            started = time.perf_counter()
            posted = client.post(path, headers=admin, json={"body": f"Answer {number}"})
            posted.raise_for_status()
            answered = time.perf_counter()
            while True:
                newest = client.get("/notifications", headers=customer, params={"limit": 1}).json()["items"]
                if newest and newest[0]["message_id"] == posted.json()["id"]:
                    break
                time.sleep(PAUSE)
            posts.append(answered - started)
            records.append(time.perf_counter() - started)
    _print("POST answered (yardstick)", posts)
    _print("record readable", records)
    print(f"ratio of the medians: {statistics.median(records) / statistics.median(posts):.1f}")


def _headers(sub: str, role: str) -> dict[str, str]:
    token = issue_token(read_settings(TokenSettings), {"sub": sub, "role": role}, timedelta(hours=1))
    return {"Authorization": f"Bearer {token}"}


def _print(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    median, p95, worst = statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1]
    print(f"{what:<28} median {median * 1000:6.1f} ms   p95 {p95 * 1000:6.1f} ms   worst {worst * 1000:6.1f} ms")


if __name__ == "__main__":
    main()
