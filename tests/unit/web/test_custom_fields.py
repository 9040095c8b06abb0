"""Which of the store's own fields of a customer can be dialled."""

import pytest

from services.conversations.web.custom_fields import shown_fields


@pytest.mark.parametrize(
    ("name", "value", "tel"),
    [
        ("Phone", "0664 123 45 67", "06641234567"),
        ("Contact", "+43 (1) 234-567", "+431234567"),
        ("Contact", "+49 (0)30 1234567", "+49301234567"),
        ("phone_number", 6641234567, "6641234567"),
        ("Mobile", "020 7946 0958", "02079460958"),
        ("Customer number", "0664 123 45 67", None),
        ("Customer number", 6641234567, None),
        ("Phone", "12345", None),
        ("Phone", "+1234567890123456", None),
        ("Phone", "call the neighbour", None),
        ("Phone", "06641234567;ext=1", None),
        ("Phone", "٠١٢٣٤٥٦٧٨", None),
        ("Hotel", "2026 11 29", None),
    ],
)
def test_only_what_is_clearly_a_phone_number_can_be_dialled(name: str, value: str | int, tel: str | None) -> None:
    [field] = shown_fields({name: value})
    assert (field.text, field.tel) == (str(value), tel)


def test_booleans_are_flags_and_fields_without_a_value_are_not_shown() -> None:
    fields = list(shown_fields({"VIP": True, "Empty": None, "Blocked": False, "Rating": 4.5, "Large": 1e15}))
    assert [(field.name, field.flag, field.text) for field in fields] == [
        ("VIP", True, ""),
        ("Blocked", False, ""),
        ("Rating", None, "4.5"),
        ("Large", None, "1e+15"),
    ]
