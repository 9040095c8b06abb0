"""Addresses: which ones are the same mailbox, which are unattended, and which are unsafe to write anywhere."""

from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.notifications.mail.addresses import (
    AddressError,
    addr_spec,
    ascii_domain_address,
    is_unattended,
    mailbox_of,
    sender_address,
)


@pytest.mark.parametrize(
    "spelling",
    [
        "zoë@straße.example",
        "ZOË@STRASSE.example".replace("SS", "ß"),
        normalize("NFD", "Zoë@xn--strae-oqa.Example"),
        "zoë@XN--STRAE-OQA.example.",
    ],
)
def test_all_spellings_of_an_address_are_one_mailbox(spelling: str) -> None:
    assert mailbox_of(spelling) == "zoë@xn--strae-oqa.example"


@pytest.mark.parametrize("local", ["anna..berg", "anna.", ".anna", "ünï.."])
def test_dots_that_no_atom_allows_are_quoted_only_in_smtp(local: str) -> None:
    plain, quoted = f"{local}@docomo.ne.jp", f'"{local}"@docomo.ne.jp'
    for written in (plain, quoted):
        assert addr_spec(written) == quoted
        assert mailbox_of(written) == ascii_domain_address(written) == plain
        assert sender_address(f"Shop <{written}>") == plain
    assert addr_spec('"anna.berg"@docomo.ne.jp') == addr_spec("anna.berg@docomo.ne.jp") == "anna.berg@docomo.ne.jp"


@pytest.mark.parametrize("other", ["anna+shop@x.example", "a.nna@x.example", "anna@y.x.example", "anna@x.example.org"])
def test_addresses_that_only_some_servers_treat_as_one_are_two_mailboxes(other: str) -> None:
    assert mailbox_of("anna@x.example") != mailbox_of(other)


@given(st.emails())
def test_the_spelling_of_an_address_does_not_change_its_mailbox(address: str) -> None:
    try:
        mailbox = mailbox_of(address)
    except AddressError:
        return
    assert mailbox_of(mailbox) == mailbox_of(address.upper()) == mailbox_of(address.swapcase()) == mailbox


@pytest.mark.parametrize(
    ("address", "unattended"),
    [
        ("MAILER-DAEMON@mx.example", True),
        ("no-reply@store.example", True),
        ("NoReply+order7@store.example", True),
        ("do-not-reply@store.example", True),
        ("postmaster@store.example", False),  # RFC 5321 requires that it is read
        ("no-reply-needed@store.example", False),
        ("anna+noreply@store.example", False),
    ],
)
def test_automated_addresses_are_distinguished_from_those_of_people(address: str, unattended: bool) -> None:
    assert is_unattended(mailbox_of(address)) == unattended


@given(
    st.text(st.sampled_from('ab@.\r\n\t\0 \x7f\x85\u2028\u202e\u200b<>()[],;:\\"=?%!é😀\ud800\uff20'), max_size=40)
    | st.text()
)
@example("anna@customer.example\r\nRCPT TO:<eve@evil.example>")
@example("anna@customer.example> SIZE=1")
@example("=?utf-8?q?eve=40evil.example,?=@customer.example")
@example("anna@customer.example,eve@evil.example")
@example(f"{'😀' * 300}@x.example")
@example(f"{'a' * 400}@x.example")
@example("anna@\u202ecustomer.example")
def test_an_accepted_address_is_one_word_that_cannot_end_a_header_or_command(text: str) -> None:
    try:
        address = ascii_domain_address(text)
    except AddressError:
        return
    assert address.count("@") == 1
    assert not set(address) & set('\r\n\t \0<>,;:"\\()[]')
    assert address.isprintable()
    assert "=?" not in address
    assert address.rpartition("@")[2].isascii()
    assert len(address.encode()) < 900, "it fits on a line of a header"
    spec = addr_spec(text)
    assert spec in {address, f'"{address.rpartition("@")[0]}"@{address.rpartition("@")[2]}'}
