"""What is read of a part's headers without the email package is read as it reads it."""

import os
import random
import re
from email.message import Message

import pytest

from services.notifications.inbound.parsing import descriptions
from services.notifications.inbound.parsing.descriptions import Description, described
from services.notifications.inbound.parsing.mime import _POLICY as POLICY

ROUNDS = 50_000 if os.environ.get("EVERY_CASE") else 2_000
# Of which headers are made that may be read in more than one way.
PIECES = [
    *("text/plain", "text/HTML", "multipart/mixed", "message/rfc822", "text", "a/b/c", "", "TEXT/x-a.b+c"),
    *(";", "; ", " ;\r\n\t", ";;", " ", "=", '"', "\\", "'", "<", ">", "(", "\xe4", "\udce4", "\x0b", "=?utf-8?q?a?="),
    *("charset", "Charset", "charset*", "charset*0", "boundary", "format", "delsp", "name", "x-y"),
    *("utf-8", "UTF-8", '"utf-8"', "us-ascii''a", "flowed", '"Flowed"', "yes", '"b; c"', '"=_b "', '"a\\"b"', "<b>"),
]


def read_both(*headers: tuple[str, str]) -> tuple[Description, Description]:
    """Return the description of a part, and what it would be by the email package alone."""
    found = []
    for usual in (True, False):
        part = Message(policy=POLICY)
        for name, value in headers:
            part.set_raw(name, value)
        with pytest.MonkeyPatch.context() as patch:
            if not usual:
                patch.setattr(descriptions, "_USUAL_TYPE", re.compile(r"(?!)"))
            found.append(described(part))
    return found[0], found[1]


def is_usual(content_type: str) -> bool:
    """Return whether the email package is not asked for this header."""
    return descriptions._USUAL_TYPE.fullmatch(content_type) is not None  # noqa: SLF001 - one of the two ways


@pytest.mark.parametrize(
    "content_type",
    [
        'text/plain; charset="utf-8"',
        "text/HTML; charset=ISO-8859-1; format=flowed; delsp=Yes",
        'multipart/alternative;\r\n\tboundary="----=_Part_1_2.3"',
        "multipart/mixed; boundary=000000000000a8; charset=A; charset=B",
        "text/plain",
    ],
)
def test_headers_of_the_usual_form_are_read_as_the_email_package_reads_them(content_type: str) -> None:
    assert is_usual(content_type)
    ours, packages = read_both(("Content-Type", content_type), ("Content-Disposition", 'inline; filename="a.txt"'))
    assert ours == packages


def test_headers_of_any_form_are_read_the_same() -> None:
    dice, usual = random.Random(2026), 0
    for _ in range(ROUNDS):
        content_type = dice.choice(PIECES[:8]) + "".join(dice.choices(PIECES, k=dice.randrange(7)))
        if dice.randrange(2):
            pairs = [f"{dice.choice(PIECES[24:33])}={dice.choice(PIECES[33:])}" for _ in range(dice.randrange(4))]
            content_type = dice.choice(PIECES[8:11]).join([dice.choice(PIECES[:8]), *pairs])
        ours, packages = read_both(("Content-Type", content_type))
        assert ours == packages, content_type
        usual += is_usual(content_type)
    assert ROUNDS / 20 < usual < ROUNDS
