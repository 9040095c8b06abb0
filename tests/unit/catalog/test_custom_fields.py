"""The store's own fields of a user: what is kept, and what the store is told."""

import json
from typing import Any

import pytest

from services.conversations.catalog.schemas import PutUser, check_record
from services.conversations.catalog.values import read_json


def read(custom: Any) -> tuple[Any, list[Any]]:
    """Return the fields kept of what the store sent, in order, and the warnings."""
    sent = custom if isinstance(custom, str) else json.dumps(custom)
    checked = check_record(PutUser, read_json(f'{{"custom": {sent}}}'.encode()))
    return checked.record.custom, checked.warnings.as_json()


def test_texts_numbers_booleans_and_nulls_are_kept_in_order() -> None:
    fields = {"VIP": True, "Phone": "+43 1 234567", "Orders": 12, "Rating": 4.5, "Debt": -0.25, "Notes": None}
    kept, warnings = read(fields)
    assert list(kept.items()) == list(fields.items())
    assert [type(value) for value in kept.values()] == [bool, str, int, float, float, type(None)]
    assert warnings == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('{"a": [1], "b": 1}', {"b": 1}),
        ('{"a": {"c": 1}, "b": 1}', {"b": 1}),
        ('{"": 1, "b": 1}', {"b": 1}),
        ('{" \\u200b ": 1, "b": 1}', {"b": 1}),
        (json.dumps({"x" * 51: 1, "b": 1}), {"b": 1}),
        ("[1]", {}),
        ('"text"', {}),
        ('{"a": "two\\nlines"}', {"a": "two lines"}),
        ('{"a": "\\u0000\\ud800"}', {"a": "\ufffd\ufffd"}),
        (json.dumps({"a": "x" * 501}), {"a": "x" * 500}),
        ('{"a": 12345678901234567890}', {"a": "12345678901234567890"}),
        ('{"a": 1e999}', {"a": "1e999"}),
        ('{"a": 0.12345678901234567}', {"a": "0.12345678901234567"}),
        ('{"a": NaN}', {"a": "NaN"}),
        (json.dumps({str(number): number for number in range(21)}), {str(number): number for number in range(20)}),
    ],
)
def test_an_unusable_field_is_left_out_or_changed_with_a_warning(sent: str, kept: Any) -> None:
    fields, warnings = read(sent)
    assert fields == kept
    assert len(warnings) == 1
    assert warnings[0]["loc"][:2] == ["body", "custom"]


def test_an_empty_text_is_null_and_names_are_trimmed() -> None:
    assert read({" Phone ": "  ", "b": " x "}) == ({"Phone": None, "b": "x"}, [])
    assert read("null") == ({}, [])
