"""Measure the cost of composing an email, by the kind of text in it: `python -m bench.composing`.

CPU time for 50 messages of 10,000 characters, the minimum of several rounds. Two yardsticks in the same run: messages
of half the length, which should cost half, and plain words.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from services.notifications.mail.bodies import html_size
from services.notifications.mail.message import Brand, ContentMessage, EmailContent, compose

MESSAGES = 50
LONGEST = 10_000
ROUNDS = 5
NOW = datetime(2026, 7, 3, 21, 5, tzinfo=UTC)
BRAND = Brand("Hazel & Birch", "no-reply@shop.example", "https://shop.example", None, "UTC", "en")
KINDS = {
    "words": "word ",
    "one word": "a",
    "spaces": "a  ",
    "tabs": "\t",
    "short lines": "a\n",
    "empty lines": "\n\n\na",
    "Unicode line breaks": "\u2028",
    "markup": "<&",
    "quotes": '"',
    "equals signs": "=",
    "accents, composed": "é",
    "accents, decomposed": "e\u0301",
    "Chinese": "字",
    "Thai": "ก",
    "Hebrew": "ש",
    "Hebrew and Latin, line by line": "ש\na\n",
    "Hebrew, short lines": "ש \n  ",
    "direction marks": "\u200f",
    "emoji": "😀",
    "emoji, joined": "👩‍💻",
    "control characters": "\x07",
    "signatures": "-- \n",
    "links": "https://shop.example/a ",
}


def main() -> None:
    """Measure and print."""
    words = _cost(_email(KINDS["words"], LONGEST))
    print(f"{'':<32}{'ms':>8}{'to half':>9}{'to words':>10}{'HTML of one':>13}")
    for name, repeated in KINDS.items():
        whole, half = _cost(_email(repeated, LONGEST)), _cost(_email(repeated, LONGEST // 2))
        size = html_size(_body(repeated, LONGEST))
        print(f"{name:<32}{whole * 1000:>8.1f}{whole / half:>9.2f}{whole / words:>10.1f}{size:>13,}")


def _body(repeated: str, length: int) -> str:
    return (repeated * length)[:length]


def _email(repeated: str, length: int) -> Callable[[], bytes]:
    messages = [ContentMessage(number, "Robin", _body(repeated, length), NOW) for number in range(MESSAGES)]
    email = EmailContent(
        message_id="<one@shop.example>",
        audience="customer",
        conversation_id=UUID(int=7),
        subject="Where is my parcel?",
        to_address="mila@customer.example",
        to_name="Mila",
        locale="en",
        time_zone="UTC",
        created_at=NOW,
        thread=(),
        messages=messages,
    )
    return lambda: compose(email, BRAND)


def _cost(run: Callable[[], bytes]) -> float:
    run()
    costs = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        run()
        costs.append(time.process_time() - begun)
    return min(costs)


if __name__ == "__main__":
    main()
