"""What is read faster than by aiosmtpd means the same."""

from email._header_value_parser import get_angle_addr

import pytest

from services.notifications.inbound.server import read_plain_address

PLAIN = (
    "<anna@example.com>",
    "<anna@example.com> SIZE=1200 BODY=8BITMIME",
    "<reply+abc.d_e@in.store.example>",
    "<=anna/x@example>",
    "<anna@localhost>",
)
OTHERS = (
    "<>",
    "<a..b@example.com>",
    "<anna@example..com>",
    '<"anna b"@example.com>',
    "anna@example.com",
    "<anna@[192.0.2.1]>",
    "<anna@example.com> (Anna)",
    "<@relay:anna@example.com>",
    "<\u00e4@example.com>",
    "<anna@example.com.>",
    "<anna@example.com>SIZE=1200",
    "",
)


@pytest.mark.parametrize("argument", PLAIN)
def test_a_plain_address_is_what_aiosmtpd_reads(argument: str) -> None:
    """It reads any form, by this function of the email package."""
    address, parameters = get_angle_addr(argument)
    plain = read_plain_address(argument)
    assert plain is not None
    assert plain[0] == address.addr_spec
    assert plain[1].split() == parameters.split()


@pytest.mark.parametrize("argument", OTHERS)
def test_other_forms_are_left_to_aiosmtpd(argument: str) -> None:
    """They are rare."""
    assert read_plain_address(argument) is None
