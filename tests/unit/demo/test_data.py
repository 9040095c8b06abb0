"""The example shop and the sample data have the same users and orders."""

import json
from pathlib import Path
from typing import Any

from services.conversations.demo.load import DATA

SHOP: dict[str, Any] = json.loads((Path(__file__).parents[3] / "examples" / "shop" / "data.json").read_bytes())
DEMO: dict[str, Any] = json.loads(DATA.read_bytes())


def test_the_shop_and_the_demo_have_the_same_users() -> None:
    assert SHOP["users"] == DEMO["users"]


def test_the_shop_and_the_demo_have_the_same_orders() -> None:
    assert SHOP["orders"] == [{"id": order["number"]} | without_number(order) for order in DEMO["orders"]]


def without_number(order: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in order.items() if key != "number"}
