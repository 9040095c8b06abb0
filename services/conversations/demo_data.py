"""Who is in the demo data, what they ordered, and the words in which `demo_talks` tells their conversations."""

from dataclasses import dataclass
from typing import NamedTuple

from services.conversations.rules import Side, Status


class DemoUser(NamedTuple):
    """A person of the store."""

    id: str
    role: Side
    name: str
    email: str
    locale: str
    zoneinfo: str


class Item(NamedTuple):
    """A line of an order; its total is their sum."""

    name: str
    quantity: int
    unit_price: str


@dataclass(frozen=True, slots=True)
class DemoOrder:
    """An order, placed so many days before it is put in, so that the demo never looks old."""

    number: str  # the store's id of it, too
    user_id: str
    status: str
    currency: str
    days_ago: int
    items: tuple[Item, ...]


class Message(NamedTuple):
    """What somebody wrote, once the conversation had begun."""

    sender_id: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation as it went; a `Status` in `then` is one that an admin set by hand.

    The side that did not write last has read it to its end, unless it is `unread`. `opened_by` is an admin, where it
    is not the customer. It began and had its last message `days_ago` before it is put in.
    """

    user_id: str
    subject: str
    body: str | None = None
    order_id: str | None = None
    opened_by: str | None = None
    then: tuple[Message | Status, ...] = ()
    unread: bool = False
    days_ago: tuple[float, float]


USERS = (
    DemoUser("anna", Side.CUSTOMER, "Anna", "anna@example.com", "en-GB", "Europe/London"),
    DemoUser("ben", Side.CUSTOMER, "Ben", "ben@example.org", "de", "Europe/Vienna"),
    DemoUser("chloe", Side.CUSTOMER, "Chloé", "chloe@example.net", "fr", "Europe/Paris"),
    DemoUser("sam", Side.ADMIN, "Sam", "sam@demo-store.example", "en-GB", "Europe/London"),
    DemoUser("olga", Side.ADMIN, "Olga", "olga@demo-store.example", "en-GB", "Europe/Vienna"),
)

_SHIPPING_GBP = Item("Shipping", 1, "4.50")
_SHIPPING_EUR = Item("Shipping", 1, "5.90")

ORDERS = (
    DemoOrder("A-1001", "anna", "delivered", "GBP", 40, (Item("Stoneware teapot, 0.8 l", 1, "38.00"), _SHIPPING_GBP)),
    DemoOrder(
        "A-1002",
        "ben",
        "delivered",
        "EUR",
        35,
        (Item("Hand coffee grinder", 1, "64.90"), Item("Paper filters, 100", 2, "4.20"), _SHIPPING_EUR),
    ),
    DemoOrder("A-1003", "chloe", "delivered", "EUR", 31, (Item("Linen apron, sand", 2, "29.50"), _SHIPPING_EUR)),
    DemoOrder("A-1004", "anna", "delivered", "GBP", 24, (Item("Mug, speckled", 4, "14.00"), _SHIPPING_GBP)),
    DemoOrder("A-1005", "ben", "returned", "EUR", 21, (Item("Chef's knife, 20 cm", 1, "79.00"), _SHIPPING_EUR)),
    DemoOrder(
        "A-1006",
        "chloe",
        "shipped",
        "EUR",
        9,
        (Item("Serving bowl, blue", 1, "45.00"), Item("Salad servers, olive wood", 1, "18.50"), _SHIPPING_EUR),
    ),
    DemoOrder(
        "A-1007",
        "anna",
        "shipped",
        "GBP",
        6,
        (Item("Cutting board, walnut", 1, "52.00"), Item("Board oil, 250 ml", 1, "9.50"), _SHIPPING_GBP),
    ),
    DemoOrder("A-1008", "ben", "processing", "EUR", 3, (Item("Espresso cups, set of 6", 1, "48.00"), _SHIPPING_EUR)),
    DemoOrder("A-1009", "chloe", "cancelled", "EUR", 5, (Item("Cast-iron pan, 26 cm", 1, "89.00"),)),
    DemoOrder(
        "A-1010", "anna", "processing", "GBP", 2, (Item("Gift card", 1, "50.00"), Item("Greeting card", 1, "3.50"))
    ),
    DemoOrder("A-1011", "ben", "picked up", "EUR", 2, (Item("Pour-over kettle, 1 l", 1, "72.00"),)),
    DemoOrder(
        "A-1012",
        "chloe",
        "processing",
        "EUR",
        1,
        (Item("Table runner, rust", 1, "34.00"), Item("Napkins, set of 4", 2, "19.90"), _SHIPPING_EUR),
    ),
)
