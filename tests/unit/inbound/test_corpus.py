"""Replies in the shapes of mail programs: what is shown of each, exactly."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.notifications.inbound.parsing.mime import parse_email
from services.notifications.inbound.quotes.folding import Cut
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.reply_text import read_text
from services.notifications.mail.fingerprints import Fingerprints, fingerprint

CORPUS = Path(__file__).parent / "corpus"
OURS: dict[str, dict[str, str]] = json.loads((CORPUS / "ours.json").read_text())
REPLIES: list[dict[str, str]] = json.loads((CORPUS / "replies.json").read_text())


def read(reply: dict[str, str]) -> Cut:
    ours = OURS[reply["language"]]
    known = Known(
        ("support@northwind.example", "reply+x@in.example"),
        ("Northwind Tea", "Anna"),
        ("maria@customer.example", "Maria Rossi"),
        ours["subject"],
        ("shop.example",),
    )
    written = fingerprint([ours["preview"], "Northwind Tea", ours["subject"], ours["text"]])
    return read_text(parse_email(reply["source"].encode()), Fingerprints([written]), known)


@pytest.mark.parametrize("reply", REPLIES, ids=[reply["name"] for reply in REPLIES])
def test_what_the_customer_wrote_is_shown_and_nothing_else(reply: dict[str, Any]) -> None:
    assert spaced(read(reply).text) == spaced(reply["expected"])


def spaced(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.split("\n") if line.strip())
