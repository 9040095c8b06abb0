"""What real stores send of users and orders, and how each value is read."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversations.catalog.schemas import PutOrder, PutUser, Record, check_record
from services.conversations.catalog.values import Number, read_json
from shared.problems import Invalid
from tests.service.helpers.callers import ORDER

Read = tuple[dict[str, Any], list[list[Any]]]


def read(kind: type[Record], body: bytes) -> Read:
    """Return the accepted fields of a body, and the locations of the warnings."""
    checked = check_record(kind, read_json(body))
    accepted = checked.record.model_dump(mode="json")
    return accepted, [warning["loc"][1:] for warning in checked.notes.get("warnings", [])]


def order(**fields: str) -> Read:
    """Read an order with `fields`, which are JSON."""
    sent = {name: json.dumps(value) for name, value in ORDER.items()} | fields
    return read(PutOrder, b"{%s}" % ", ".join(f'"{name}": {value}' for name, value in sent.items()).encode())


@pytest.mark.parametrize(
    ("sent", "read_as"),
    [
        ("59.90", "59.90"),
        ('"59.90"', "59.90"),
        ('" -5.00 "', "-5.00"),
        ("0.1", "0.1"),
        ("1299", "1299"),
        ("1e2", "100"),
        ("1.50E1", "15.0"),
        ("-0.00", "0.00"),
        ("0e999999999", "0"),
        ("123456789012345.0123456789", "123456789012345.0123456789"),
        ("9007199254740993", None),
        ("900719925474099.3", "900719925474099.3"),
        ("1.0000000000000000000000", "1.0000000000"),
        *(
            (value, None)
            for value in ("1e15", "1E400", "-1e400", "1e" + "9" * 50_000, "9" * 60_000, "NaN", "-Infinity")
        ),
        *((json.dumps(value), None) for value in ["", "59,90", "1_0", "0x10", "\u0665", "EUR 5", True, None, []]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_amounts_are_read_exactly_as_written(sent: str, read_as: str | None) -> None:
    if read_as is None:
        with pytest.raises(Invalid, match="total"):
            order(total=sent)
    else:
        accepted, warnings = order(total=sent)
        assert (accepted["total"], warnings) == (read_as, [])


@pytest.mark.parametrize(
    ("sent", "read_as"),
    [
        ("12.333333333333334", "12.3333333333"),
        ("59.900000000000006", "59.9"),
        ("1e-400", "0"),
        ("-0.00000000001", "0"),
        ("0." + "3" * 60_000, "0.3333333333"),
    ],
    ids=lambda value: value[:30],
)
def test_an_amount_with_more_than_ten_decimals_is_rounded_with_a_warning(sent: str, read_as: str) -> None:
    accepted, warnings = order(total=sent)
    assert (accepted["total"], warnings) == (read_as, [["total"]])


def test_a_huge_exponent_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        for sent in ("1e999999999999", "-1E400000", "1e-999999999999", "0e99999999", '"1e999999"'):
            with suppress(Invalid):
                order(total=sent, items=f'[{{"name": "x", "quantity": {sent}, "unit_price": {sent}}}]')
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("sent", "warns"),
    [
        ("2026-01-02T03:04:05Z", False),
        ("2026-01-02T03:04:05.678901234Z", False),
        ("2026-01-01T22:04:05-05:00", False),
        ("2026-01-02T04:04:05+0100", False),
        ("2026-01-02 03:04:05 UTC", False),
        ("2026-01-02 04:04:05 +0100", False),
        ("2026-01-02t03:04:05z", False),
        ("2026-01-02T04:04:05+01:00[Europe/Vienna]", False),
        ("Fri, 02 Jan 2026 03:04:05 +0000", False),
        ("2 Jan 2026 04:04:05 +0100", False),
        ("20260102T030405Z", False),
        ("20260102 04:04:05+01:00", False),
        ("2026-01-02T03:04:05", True),
        (" 2026-01-02 03:04:05 ", True),
    ],
)
def test_times_are_read_in_the_formats_of_real_stores(sent: str, warns: bool) -> None:
    accepted, warnings = order(placed_at=json.dumps(sent))
    assert accepted["placed_at"].startswith("2026-01-02T03:04:05")
    assert accepted["placed_at"].endswith("Z")
    assert warnings == ([["placed_at"]] if warns else [])


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.25Z", "2017-01-01T00:00:00.250000Z"),
        ("2016-12-31T18:59:60-05:00", "2017-01-01T00:00:00Z"),
        ("20161231T235960Z", "2017-01-01T00:00:00Z"),
        ("Sat, 31 Dec 2016 23:59:60 GMT", "2017-01-01T00:00:00Z"),
        ("2026-02-28T24:00:00Z", "2026-03-01T00:00:00Z"),
        ("2026-02-28 24:00:00.000 UTC", "2026-03-01T00:00:00Z"),
        ("2026-02-28T24:00Z", "2026-03-01T00:00:00Z"),
        ("20260228T240000+0100", "2026-02-28T23:00:00Z"),
        ("2026-02-28t24:00:00z", "2026-03-01T00:00:00Z"),
    ],
)
def test_a_leap_second_and_the_end_of_a_day_are_the_next_moment(sent: str, moment: str) -> None:
    accepted, warnings = order(placed_at=json.dumps(sent))
    assert (accepted["placed_at"], warnings) == (moment, [])


@pytest.mark.parametrize("sent", ["2026-01-02", "20260102"])
def test_a_date_without_a_time_is_midnight_in_utc(sent: str) -> None:
    accepted, warnings = order(placed_at=json.dumps(sent))
    assert (accepted["placed_at"], warnings) == ("2026-01-02T00:00:00Z", [["placed_at"]])


@pytest.mark.parametrize(
    "sent",
    [
        "0000-00-00 00:00:00",
        "2026-13-01T00:00:00Z",
        "20261302",
        "2026-01-02T23:59:61Z",
        "2026-01-02T23:60:00Z",
        "2026-01-02T24:00:01Z",
        "2026-01-02T24:00:00.5Z",
        "2026-01-02T24:01:00Z",
        "2026-01-02T25:00:00Z",
        "9999-12-31T24:00:00Z",
        "17010101000",
        "1767225600",
        "Fri, 99 Xyz 2026 03:04:05 +0000",
        "0001-01-01T00:00:00Z",
    ],
)
def test_an_invalid_time_is_rejected(sent: str) -> None:
    with pytest.raises(Invalid, match="placed_at"):
        order(placed_at=json.dumps(sent))


@pytest.mark.parametrize(
    "change",
    [
        {"role": "store"},
        {"email": "anna@"},
        {"email": "anna@customer.test\r\nBcc: x@y.test"},
        {"email": f"{'a' * 65}@customer.test"},
        {"email": f"{'ü' * 33}@customer.test"},
        {"name": "x" * 201},
        {"name": "a\0b"},
        {"name": "\u200b\u3164"},
        {"locale": "es-DE"},
        {"zoneinfo": "../../etc/passwd"},
        *({"updated_at": time} for time in (0, 1.5, "1767225600", " -5", False, "9999-12-31T23:59:59-14:00")),
    ],
)
def test_an_invalid_field_of_a_user_is_left_out_with_a_warning(change: dict[str, Any]) -> None:
    _, warnings = read(PutUser, json.dumps({"name": "Anna"} | change).encode())
    assert warnings == [[*change]]


@pytest.mark.parametrize(
    "url",
    ["//store.test/1", "/orders/1", "store.test", "ftp://store.test", "http:store.test", "https://", "http://[::1", 7],
)
def test_a_link_that_is_not_a_web_address_is_left_out_with_a_warning(url: Any) -> None:
    accepted, warnings = order(url=json.dumps(url))
    assert (accepted["url"], warnings) == (None, [["url"]])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"quantity": 10**30}, ["quantity"]),
        ({"quantity": True}, ["quantity"]),
        ({"quantity": None}, ["quantity"]),
        ({"name": ""}, ["name"]),
        ({"name": "\u2800"}, ["name"]),
        ({"unit_price": "free"}, ["unit_price"]),
    ],
)
def test_an_invalid_item_is_left_out_with_a_warning(change: dict[str, Any], where: list[str]) -> None:
    valid = {"name": "x", "quantity": 1, "unit_price": "1"}
    accepted, warnings = order(items=json.dumps([valid, valid | change, valid]))
    assert (len(accepted["items"]["kept"]), warnings) == (2, [["items", 1, *where]])


@pytest.mark.parametrize(
    ("sent", "quantity"), [("2", 2), ("2.5", 2.5), ("-1", -1), ("0", 0), ('"2.0000"', 2), ("1e3", 1000)]
)
def test_a_quantity_may_be_fractional_zero_or_negative(sent: str, quantity: float) -> None:
    accepted, warnings = order(items=f'[{{"name": "x", "quantity": {sent}, "unit_price": "1"}}]')
    [item] = accepted["items"]["kept"]
    assert (item["quantity"], type(item["quantity"]), warnings) == (quantity, type(quantity), [])


def test_a_long_name_is_cut_between_characters() -> None:
    accepted, warnings = read(PutUser, json.dumps({"name": "x" * 198 + "👩‍💻" * 10}).encode())
    assert (accepted["name"], warnings) == ("x" * 198, [["name"]])


def test_null_and_empty_values_are_the_same_as_missing_ones() -> None:
    names = ("url", "items", "updated_at")
    assert order() == order(**dict.fromkeys(names, "null")) == order(url='""', items="[]", updated_at='" "')
    empty = read(PutUser, b"{}")
    assert empty == read(PutUser, json.dumps(dict.fromkeys(PutUser.model_fields)).encode())
    assert empty == read(PutUser, json.dumps(dict.fromkeys(PutUser.model_fields, "")).encode())


def test_ids_and_texts_that_are_sent_as_numbers_are_kept_as_written() -> None:
    accepted, warnings = order(user_id="450789469000000000001", number="1001", status="3")
    assert (accepted["user_id"], accepted["number"], accepted["status"]) == ("450789469000000000001", "1001", "3")
    assert warnings == []
    assert all(type(accepted[name]) is str for name in ("user_id", "number", "status"))


def test_the_last_of_duplicate_fields_is_used() -> None:
    body = json.dumps(ORDER | {"total": "1.00"})[:-1] + ', "total": "2.00"}'
    assert read(PutOrder, body.encode())[0]["total"] == "2.00"


WOOCOMMERCE: dict[str, Any] = {
    "user_id": 26,
    "number": "727",
    "status": "processing",
    "currency": "EUR",
    "placed_at": "2017-03-22T16:28:02",
    "total": "29.35",
    "url": "https://example.com/checkout/order-received/727/?key=wc_order_58d2d042d1d",
    "items": [
        {"id": 315, "name": "Woo Single #1", "quantity": 2, "unit_price": 3, "sku": "", "taxes": [{"id": 75}]},
        {"id": 316, "name": "Ship Your Idea &ndash; M", "quantity": 3, "unit_price": 12.333333333333334, "sku": "B"},
    ],
    "meta_data": [{"id": 13106, "key": "_download_permissions_granted", "value": "yes"}],
}
SHOPIFY: dict[str, Any] = {
    "user_id": 207119551,
    "number": 1001,
    "status": "paid",
    "currency": "USD",
    "placed_at": "2008-01-10T11:00:00-05:00",
    "updated_at": "2008-01-10T11:00:00-05:00",
    "total": "598.94",
    "url": "https://jsmith.myshopify.com/548380009/orders/b1946ac92492d2347c6235b4d2611184/authenticate?key=imasecretipod",
    "items": [
        {"name": "IPod Nano - 8gb - green", "quantity": 1, "unit_price": "199.00", "grams": 200, "gift_card": False},
        {"name": "Refund\u2028adjustment", "quantity": -1, "unit_price": "-0.01"},
    ],
    "cancelled_at": None,
}
MAGENTO: dict[str, Any] = {
    "user_id": "2",
    "number": "000000021",
    "status": "complete",
    "currency": "USD",
    "placed_at": "2024-03-01 09:15:00",
    "total": 86.4,
    "url": None,
    "items": [
        {"name": "Didi Sport Watch", "quantity": 1.5, "unit_price": 57.6000, "product_type": "simple"},
        {"name": None, "quantity": 1, "unit_price": 0},
    ],
    "extension_attributes": {},
}


@pytest.mark.parametrize(
    ("sent", "amounts", "warnings"),
    [
        (
            WOOCOMMERCE,
            ["29.35", "3", "12.3333333333"],
            [
                ["placed_at"],
                ["items", 0, "id"],
                ["items", 0, "sku"],
                ["items", 0, "taxes"],
                ["items", 1, "unit_price"],
                ["meta_data"],
            ],
        ),
        (
            SHOPIFY,
            ["598.94", "199.00", "-0.01"],
            [["items", 0, "grams"], ["items", 0, "gift_card"], ["items", 1, "name"], ["cancelled_at"]],
        ),
        (
            MAGENTO,
            ["86.4", "57.6"],
            [["placed_at"], ["items", 0, "product_type"], ["items", 1, "name"], ["extension_attributes"]],
        ),
    ],
    ids=["WooCommerce", "Shopify", "Magento"],
)
def test_an_order_of_a_real_store_is_accepted(
    sent: dict[str, Any], amounts: list[str], warnings: list[list[Any]]
) -> None:
    record = check_record(PutOrder, read_json(json.dumps(sent).encode()))
    fields = record.record.to_upsert("1").fields
    assert [fields["total"], *(item["unit_price"] for item in fields["items"])] == amounts
    assert sorted(map(str, (warning["loc"][1:] for warning in record.notes["warnings"]))) == sorted(map(str, warnings))


@pytest.mark.parametrize(
    "sent",
    [
        {"email": "", "name": "John", "locale": "", "zoneinfo": None, "role": "customer", "billing": {"city": "x"}},
        {"email": "bob@mail.example.com", "name": "Bob Norman", "locale": "en-CA", "zoneinfo": "(GMT-05:00) Eastern"},
        {"email": "v@example.com", "name": "Veronica\nCostello", "role": "General", "locale": "es_DE", "store_id": 1},
    ],
    ids=["WooCommerce", "Shopify", "Magento"],
)
def test_a_user_of_a_real_store_is_accepted(sent: dict[str, Any]) -> None:
    accepted, _ = read(PutUser, json.dumps(sent).encode())
    assert accepted["name"] == sent["name"].replace("\n", " ")
    assert accepted["email"] == (sent["email"] or None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(PutUser.model_fields)) | st.text(max_size=5), JSON, max_size=8))
def test_no_field_of_a_user_is_ever_rejected(sent: dict[str, Any]) -> None:
    checked = check_record(PutUser, read_json(json.dumps(sent).encode()))
    used = {name for name, value in checked.record.model_dump().items() if value is not None}
    warned = {warning["loc"][1] for warning in checked.notes.get("warnings", []) if len(warning["loc"]) > 1}
    for name, value in sent.items():
        blank = value is None or (isinstance(value, str) and not value.strip())
        assert name in used or name in warned or blank


@given(
    st.dictionaries(st.sampled_from(["url", "items", "updated_at", "other"]), JSON, max_size=4),
    st.lists(JSON, max_size=3),
)
def test_no_invalid_optional_field_of_an_order_rejects_it(sent: dict[str, Any], items: list[Any]) -> None:
    assert check_record(PutOrder, read_json(json.dumps(ORDER | {"items": items} | sent).encode())).record


def test_a_number_keeps_its_text() -> None:
    assert read_json(b'{"a": 1.10, "b": 1e400}') == {"a": Number("1.10"), "b": Number("1e400")}
