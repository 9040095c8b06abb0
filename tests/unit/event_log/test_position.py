"""Log positions as clients see them, and what they reveal."""

import base64
from uuid import UUID, uuid4

import pytest

from services.conversations.event_log.position import decode_position, encode_position

EPOCH = UUID("0199a7d6-5b1e-4c3a-9d51-2f0f6c1a7e42")


@pytest.mark.parametrize("position", [0, 1, 2**63 - 1])
def test_a_position_is_decoded_as_it_was_encoded_and_fits_into_a_url(position: int) -> None:
    name = encode_position(EPOCH, position)
    assert decode_position(name, EPOCH) == position
    assert name.isascii()
    assert name.replace("-", "").replace("_", "").isalnum()


def test_an_encoded_position_reveals_neither_its_number_nor_its_epoch() -> None:
    names = [base64.urlsafe_b64decode(encode_position(EPOCH, number) + "==") for number in range(1000)]
    assert len({name[:8] for name in names}) == len({name[8:] for name in names}) == 1000
    assert not any(EPOCH.bytes[:4] in name for name in names)


def test_a_position_of_another_epoch_is_none() -> None:
    assert decode_position(encode_position(uuid4(), 7), EPOCH) is None


@pytest.mark.parametrize(
    "text",
    ["", "0", "1234", "A" * 21, "A" * 22, "A" * 23, "A" * 32, "A" * 20 + "==", "A" * 21 + "\n", "\x00" * 22, "é" * 22,
     "\ud800", " " + "A" * 22, "A" * 100_000],
)  # fmt: skip
def test_an_invalid_text_is_not_a_position(text: str) -> None:
    assert decode_position(text, EPOCH) is None
