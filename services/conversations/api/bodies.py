"""What the API takes: every body, and what counts as a good one."""

import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from services.conversations.people import PROFILE
from services.conversations.rules import (
    BODY_LENGTH,
    BULK_DELETE_LIMIT,
    SUBJECT_LENGTH,
    Side,
    Status,
)
from services.conversations.store_sync import SentOrder, SentUser
from shared.paging import MAX_NUMBER
from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.text import Name, OneLine, Text

_NO_URL = re.compile(r"[\s\x00-\x1f<>\"\\^`{|}]")  # what stands in no URL unless it is encoded

Subject = Annotated[
    OneLine,
    StringConstraints(min_length=1, max_length=SUBJECT_LENGTH),
    Field(description="One line, counted once it is trimmed."),
]
Body = Annotated[
    Text,
    StringConstraints(min_length=1, max_length=BODY_LENGTH),
    Field(description="Plain text without NUL, counted once white space at both its ends is trimmed."),
]
MessageNumber = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
Money = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,4})?$")]


def _web_address(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("a link starts with https:// or http://")
    if _NO_URL.search(value) or not urlsplit(value).hostname:  # which raises ValueError itself for some
        raise ValueError("this is no address of a page")
    return value


def _utc(value: datetime) -> datetime:
    # The driver writes the first and the last moment of the calendar as infinity, and other zones reach beyond it.
    if not MINYEAR < value.year < MAXYEAR:
        raise ValueError(f"this time lies outside the years {MINYEAR + 1} to {MAXYEAR - 1}")
    return value.astimezone(UTC)


def _is_written_out(value: object) -> object:
    if not isinstance(value, str) or value.strip()[4:5] != "-":  # to pydantic a count of seconds is a time as well
        raise ValueError("a time is written as in 2026-01-02T03:04:05Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_utc)]
Link = Annotated[
    OneLine,
    StringConstraints(max_length=2000),
    AfterValidator(_web_address),
    Field(description="The address of a page, with http or https."),
]


class Request(BaseModel):
    """A body; fields that it does not know are an error."""

    model_config = ConfigDict(extra="forbid")


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class CreateConversation(Request):
    """A customer opens a conversation, about an order of theirs or not, with a first message or without."""

    model_config = _example(subject="Where is my parcel?", order_id="A-1007", body="It should be here by now.")

    subject: Subject
    order_id: StoreId | None = None
    body: Body | None = None


class AdminCreateConversation(Request):
    """An admin opens a conversation with a customer."""

    model_config = _example(user_id="C-42", subject="Your order A-1007", body="It will be a day late.")

    user_id: StoreId
    subject: Subject
    body: Body
    order_id: StoreId | None = None
    status: Status | None = None


class PostMessage(Request):
    """A message. `seen_number` is the newest number on the sender's screen: newer ones of the other side refuse it."""

    model_config = _example(body="Thank you!", seen_number=3)

    body: Body
    seen_number: MessageNumber | None = None


class EditConversation(Request):
    """The edit form: a reply, a status, or both in one submit."""

    model_config = _example(reply_body="It is on its way.", status="RESOLVED", seen_number=4)

    status: Status | None = None
    reply_body: Body | None = None
    seen_number: MessageNumber | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is None and self.reply_body is None:
            raise ValueError("give a status, a reply_body, or both")
        return self


class MarkRead(Request):
    """How far the reader has read."""

    model_config = _example(up_to=4)

    up_to: MessageNumber


class Viewing(Request):
    """Somebody looks at a conversation, or, `gone`, no more."""

    model_config = _example(gone=False)

    gone: bool = False


class BulkDelete(Request):
    """The conversations to delete, all or none; ids that come twice count once."""

    model_config = _example(ids=["0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42"])

    ids: Annotated[list[UUID], Field(min_length=1, max_length=BULK_DELETE_LIMIT)]


class PutUser(Request):
    """A user as the store has it. What is left out is empty; the role stays what it was."""

    model_config = _example(name="A. Customer", email="customer@example.com", locale="de-AT", zoneinfo="Europe/Vienna")

    email: Address | None = None
    name: Name | None = None
    role: Side | None = None
    locale: LocaleTag | None = None
    zoneinfo: ZoneName | None = None
    updated_at: Moment | None = None

    def of(self, user_id: str) -> SentUser:
        """Return the user whom this is said of."""
        return SentUser(user_id, {name: getattr(self, name) for name in PROFILE}, self.role, self.updated_at)


class OrderItem(Request):
    """A line of an order."""

    name: Annotated[OneLine, StringConstraints(min_length=1, max_length=500)]
    quantity: Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
    unit_price: Money


class PutOrder(Request):
    """An order as the store has it."""

    model_config = _example(
        user_id="C-42",
        number="1007",
        status="shipped",
        total="59.90",
        currency="EUR",
        placed_at="2026-01-02T03:04:05Z",
        url="https://store.example/orders/1007",
        items=[{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}],
    )

    user_id: StoreId
    number: Annotated[OneLine, StringConstraints(min_length=1, max_length=100)]
    status: Annotated[OneLine, StringConstraints(min_length=1, max_length=100)]
    total: Money
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    placed_at: Moment
    url: Link | None = None
    items: Annotated[list[OrderItem], Field(max_length=100)] = []
    updated_at: Moment | None = None

    def of(self, order_id: str) -> SentOrder:
        """Return the order that this is said of."""
        return SentOrder(order_id, self.model_dump(include=set(PutOrder.model_fields)))


class UserLine(PutUser):
    """A line of an import: a user, with the fields of `PUT /api/v1/store/users/{id}`."""

    model_config = _example(type="user", id="C-42", name="A. Customer", email="customer@example.com")

    type: Literal["user"]
    id: StoreId


class OrderLine(PutOrder):
    """A line of an import: an order, with the fields of `PUT /api/v1/store/orders/{id}`."""

    model_config = _example(
        type="order",
        id="A-1007",
        user_id="C-42",
        number="1007",
        status="shipped",
        total="59.90",
        currency="EUR",
        placed_at="2026-01-02T03:04:05Z",
    )

    type: Literal["order"]
    id: StoreId
