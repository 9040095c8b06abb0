from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from services.notifications.mail.reply_addresses import (
    is_signed,
    make_reply_address,
    make_unsubscribe_address,
    read_reply_token,
    read_unsubscribe_address,
)
from services.notifications.mail.unsubscribe_links import read_unsubscribe_token, unsubscribe_link, unsubscribe_token

KEY = bytes(range(32))
EMAIL = UUID("01900000-0000-7000-8000-00000000abcd")


def test_a_link_leads_to_its_email_and_fits_into_a_header() -> None:
    link = unsubscribe_link("https://store.test/help/", KEY, EMAIL)
    start, _, token = link.rpartition("/")
    assert start == "https://store.test/help/api/v1/notifications/links"
    assert len(token) == 43
    assert read_unsubscribe_token(KEY, token) == EMAIL


def test_a_link_that_nobody_signed_leads_nowhere() -> None:
    token = unsubscribe_token(KEY, EMAIL)
    other = unsubscribe_token(KEY, uuid4())
    for forged in (token[:-1], f"{token}A", token[:22] + other[22:], token.swapcase(), "", "ü", "=" * 43, token[:21]):
        assert read_unsubscribe_token(KEY, forged) is None, forged
    assert read_unsubscribe_token(bytes(32), token) is None


def test_an_address_leads_to_its_email_in_any_case_and_is_not_one_for_replies() -> None:
    local = make_unsubscribe_address(KEY, EMAIL, "in.store.test").removesuffix("@in.store.test")
    assert (len(local), local, local.isascii()) == (58, local.lower(), True)
    found = read_unsubscribe_address(local.upper())
    assert found is not None
    assert is_signed(KEY, *found)
    assert (found[0], is_signed(bytes(32), *found), is_signed(KEY, uuid4(), found[1])) == (EMAIL, False, False)
    assert read_reply_token(local) is None
    assert read_unsubscribe_address(make_reply_address("secret", EMAIL, "x")[0].removesuffix("@x")) is None
    assert read_unsubscribe_address(f"{local[:-1]}=") is None


@given(st.text(max_size=100))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_unsubscribe_token(KEY, text) is None
    assert read_unsubscribe_address(f"leave+{text[:52]}") is None or len(text) >= 52
