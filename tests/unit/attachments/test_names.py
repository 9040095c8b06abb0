"""Names of files: what is stored and shown, and the header of a download, for any name."""

from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversations.attachments.names import (
    MAX_BYTES,
    MAX_CHARACTERS,
    content_disposition,
    name_in_header,
    safe_name,
)

ARABIC = "\u0641\u0627\u062a\u0648\u0631\u0629"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("Rechnung für Anna.pdf", "Rechnung für Anna.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("/", "file"),
        ("..", "file"),
        (".", "file"),
        (".htaccess", ".htaccess"),
        ("", "file"),
        (None, "file"),
        ("   ", "file"),
        ("\u200b\u2060", "file"),
        ("a\r\nSet-Cookie: x=y.txt", "a Set-Cookie: x=y.txt"),
        ("nul\x00byte.txt", "nul byte.txt"),
        ("bell\x07.txt", "bell .txt"),
        ("photo\u202egpj.exe", "photo gpj.exe"),  # would be shown as photoexe.jpg
        ("a\u2028b.txt", "a b.txt"),
        ("half\ud800.txt", "half .txt"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("LPT1.pdf", "_LPT1.pdf"),
        ("console.txt", "console.txt"),
        ("name. . ", "name"),
        ("cafe\u0301.txt", "café.txt"),
        ("👩‍💻.png", "👩‍💻.png"),
        ('quote".txt', 'quote".txt'),
        ("semi;colon.txt", "semi;colon.txt"),
        ("a" * 300 + ".jpeg", "a" * 175 + ".jpeg"),
        ("b" * 300, "b" * 180),
        ("x." + "y" * 300, "x." + "y" * 178),
    ],
)
def test_a_stored_name_is_safe_and_keeps_what_it_can(name: str | None, safe: str) -> None:
    assert safe_name(name) == safe


def test_300_letters_of_arabic_are_shortened_before_the_ending() -> None:
    name = safe_name(ARABIC * 50 + ".pdf")
    assert name.startswith(ARABIC)
    assert name.endswith(".pdf")
    assert len(name.encode()) <= MAX_BYTES


@given(st.text(st.characters(exclude_categories=())))
def test_any_name_becomes_one_that_fits_every_file_system_and_header(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= MAX_CHARACTERS
    assert len(safe.encode()) <= MAX_BYTES
    assert not set("/\\\x00\r\n") & set(safe)
    assert safe_name(safe) == safe
    header = content_disposition("attachment", safe)
    assert header.isascii()
    assert header.isprintable()
    assert read(header) == safe


def read(header: str) -> Any:
    """Read a name as clients do that follow RFC 6266: `filename*` goes first."""
    if "filename*=" in header:
        header = f"attachment; {header[header.index('filename*=') :]}"
    message = Message()
    message["Content-Disposition"] = header
    return message.get_filename()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, None),
        ("", None),
        ("attachment", None),
        ("attachment; filename=a.txt", "a.txt"),
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment; filename*=UTF-8''%D9%81.pdf", "\u0641.pdf"),
        ("attachment; filename=\"f.pdf\"; filename*=UTF-8''%D9%81.pdf", "\u0641.pdf"),
        ('attachment; filename="für.txt"'.encode().decode("latin-1"), "für.txt"),
    ],
)
def test_a_name_is_read_from_a_header(header: str | None, name: str | None) -> None:
    assert name_in_header(header) == name


@given(st.text(st.characters(max_codepoint=255)))
def test_any_header_has_a_name_or_none(header: str) -> None:
    safe_name(name_in_header(header))


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode"])
def test_a_name_in_an_encoding_that_is_not_one_of_texts_is_no_name(charset: str) -> None:
    assert name_in_header(f"attachment; filename*={charset}''%80%80") in {
        None,
        "",
        "%80%80",
    }  # by the version of Python
