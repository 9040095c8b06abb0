"""The example shop and the demo tell of the same people and orders."""

import json
from pathlib import Path

from services.conversations.demo_data import ORDERS, USERS

DATA = Path(__file__).parents[2] / "examples" / "shop" / "data.json"


def test_the_shop_and_the_demo_have_the_same_people() -> None:
    assert json.loads(DATA.read_text())["users"] == [user._asdict() for user in USERS]


def test_the_shop_and_the_demo_have_the_same_orders() -> None:
    assert json.loads(DATA.read_text())["orders"] == [
        {
            "id": order.number,
            "user_id": order.user_id,
            "status": order.status,
            "currency": order.currency,
            "days_ago": order.days_ago,
            "items": [item._asdict() for item in order.items],
        }
        for order in ORDERS
    ]
