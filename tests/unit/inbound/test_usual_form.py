"""What is read without the email package is read as it reads it."""

import os
import random
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest

from services.notifications.inbound.parsing.mime import _POLICY as POLICY
from services.notifications.inbound.parsing.usual_form import read_usual
from tests.unit.inbound.test_corpus import REPLIES

ROUNDS = 20_000 if os.environ.get("EVERY_CASE") else 1_000
SOURCES = ["\r\n".join(reply["source"].splitlines()).encode() for reply in REPLIES]
# What may be mistaken for the end of something.
LINES = [
    b"",
    b"--b",
    b"--b--",
    b"--b ",
    b"--bb",
    b"--bb--",
    b" folded",
    b"text",
    b"--",
    b": no name",
    b"Two words: value",
    b"From someone",
    b"Subject: \xc3\xa4\x0b",
    b"Content-Type: text/plain",
    b"Content-Type: multipart/mixed; boundary=b",
    b"Content-Type: multipart/alternative; boundary=bb",
    b"Content-Type: multipart/digest; boundary=b",
    b"Content-Type: multipart/mixed",
    b"Content-Type: message/rfc822",
    b"Content-Transfer-Encoding: base64",
]


def tree(part: Message) -> Any:
    """Return what is read of a part: its headers, and its content or its parts."""
    payload = part.get_payload()
    content = [tree(child) for child in payload if isinstance(child, Message)] if isinstance(payload, list) else payload
    return part.get_content_type(), list(part.raw_items()), content


def is_usual(source: bytes) -> bool:
    """Check that an email of the usual form is read as the email package reads it; return whether it has that form."""
    usual = read_usual(source, POLICY)
    if usual is not None:
        assert tree(usual) == tree(message_from_bytes(source, policy=POLICY)), source
    return usual is not None


def test_replies_of_mail_programs_have_the_usual_form() -> None:
    assert sum(map(is_usual, SOURCES)) / len(SOURCES) > 0.9


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_lines_in_any_order_are_read_the_same(ending: bytes) -> None:
    dice, usual = random.Random(2026), 0
    for _ in range(ROUNDS):
        lines = [b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"", b"--b--"]
        for _ in range(dice.randrange(8)):
            lines.insert(dice.randrange(len(lines) + 1), dice.choice(LINES))
        usual += is_usual(ending.join(lines))
    assert (usual > ROUNDS / 100) is (ending == b"\r\n")


def test_damaged_replies_are_read_the_same() -> None:
    dice, usual = random.Random(2026), 0
    for _ in range(ROUNDS):
        lines = dice.choice(SOURCES).split(b"\r\n")
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(lines))
            match dice.randrange(4):
                case 0:
                    lines.insert(at, dice.choice(LINES))
                case 1:
                    lines.insert(at, dice.choice(lines))
                case 2:
                    lines.insert(at, lines[at][: len(lines[at]) // 2])
                case _ if len(lines) > 1:
                    del lines[at]
        usual += is_usual(b"\r\n".join(lines))
    assert usual > ROUNDS / 10
