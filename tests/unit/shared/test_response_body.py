"""msgspec writes a response's body as FastAPI would."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.conversations.api.schemas.responses import (
    ConversationOut,
    Counts,
    LastMessage,
    MessageOut,
    OrderItemOut,
    OrderOut,
    Sender,
    Unread,
    UserOut,
)
from services.conversations.rules import Side, Status
from shared.api.response_body import write_json
from shared.paging import Page

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MAYBE = st.none() | TEXT
MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis asks for it
IDS = st.uuids().map(str)
NUMBERS = st.integers(0, 2**31)
# Of numbers with an exponent, one writes 1e16, the other 1e+16.
QUANTITIES = st.integers(0, 2**53) | st.floats(0, 10**9).map(lambda quantity: round(quantity, 3))

USERS = st.builds(UserOut, id=TEXT, name=MAYBE, email=MAYBE)
ORDERS = st.builds(
    OrderOut,
    **dict.fromkeys(("id", "number", "status", "total", "currency"), TEXT),
    **dict.fromkeys(("placed_at", "synced_at"), MOMENTS),
    url=MAYBE,
    items=st.lists(st.builds(OrderItemOut, name=TEXT, quantity=QUANTITIES, unit_price=TEXT), max_size=2),
    deleted=st.booleans(),
    items_omitted=st.sampled_from([0, 1]),
)
LAST = st.builds(
    LastMessage, id=IDS, number=NUMBERS, sender_role=st.sampled_from(Side), preview=TEXT, created_at=MOMENTS
)
CONVERSATIONS = st.builds(
    ConversationOut,
    id=IDS,
    subject=TEXT,
    status=st.sampled_from(Status),
    user=USERS,
    order=st.none() | ORDERS,
    **dict.fromkeys(("is_read_by_admin", "is_read_by_user"), st.booleans()),
    message_count=NUMBERS,
    last_message=st.none() | LAST,
    **dict.fromkeys(("created_at", "last_activity_at"), MOMENTS),
    waiting_since=st.none() | MOMENTS,
)
MESSAGES = st.builds(
    MessageOut,
    **dict.fromkeys(("id", "conversation_id"), IDS),
    number=NUMBERS,
    sender=st.builds(Sender, id=MAYBE, name=TEXT, role=st.sampled_from(Side)),
    body=TEXT,
    created_at=MOMENTS,
)


@given(st.lists(CONVERSATIONS, max_size=2), MAYBE)
def test_a_page_of_conversations(items: list[ConversationOut], cursor: str | None) -> None:
    page = Page(items, cursor)
    assert write_json(page) == TypeAdapter(Page[ConversationOut]).dump_json(page)


@given(MESSAGES)
def test_a_message(message: MessageOut) -> None:
    assert write_json(message) == TypeAdapter(MessageOut).dump_json(message)


@given(NUMBERS, st.sampled_from([None, True]))
def test_counts(count: int, more: bool | None) -> None:
    for body in (
        Unread(count, more or None),
        Counts(dict.fromkeys(Status, count), count, count, count, count, more or None),
    ):
        assert write_json(body) == TypeAdapter(type(body)).dump_json(body, exclude_none=True)
