"""Schemas of the store's users and orders, sent by PUT or as lines of an import.

Only an unusable id or required field rejects a record. Any other unusable value is left out or replaced by its nearest
usable form, with a warning.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, WithJsonSchema

from services.conversations.catalog.custom_fields import CustomFields
from services.conversations.catalog.sync import OrderUpsert, Upsert, UserUpsert
from services.conversations.catalog.values import (
    AnyCase,
    AnyId,
    Currency,
    Link,
    Money,
    OrNearest,
    OrNone,
    Quantity,
    Timestamp,
    Warnings,
    single_line,
    warn,
)
from services.conversations.identity.provisioning import PROFILE
from services.conversations.rules import Side
from shared.api.json_schema import example, schema_of
from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.problems import invalid_fields, message_of

MAX_ITEMS = 100
NOT_EMPTY = Field(json_schema_extra={"minLength": 1})

_UNKNOWN = "unknown field, ignored"


class Record(BaseModel, ABC):
    """A user or an order, as the store sends it."""

    model_config = ConfigDict(extra="ignore")

    @abstractmethod
    def to_upsert(self, record_id: str) -> Upsert:
        """Return the user or the order with this id."""

    @property
    def omitted(self) -> int:
        """Return the number of items over the limit."""
        return 0


class PutUser(Record):
    """A user, as the store sends it. Missing fields are emptied; a missing role keeps the stored one."""

    model_config = example(name="A. Customer", email="customer@example.com", locale="de-AT", zoneinfo="Europe/Vienna")

    email: Annotated[Address | None, OrNone] = None
    name: Annotated[Annotated[str, single_line(200)] | None, OrNone] = None
    role: Annotated[Annotated[Side, AnyCase] | None, OrNone] = None
    locale: Annotated[LocaleTag | None, OrNearest] = None
    zoneinfo: Annotated[ZoneName | None, OrNearest] = None
    updated_at: Annotated[Timestamp | None, OrNone] = None
    custom: CustomFields = {}

    def to_upsert(self, user_id: str) -> UserUpsert:
        """Return the user with this id."""
        profile = {name: getattr(self, name) for name in PROFILE}
        return UserUpsert(user_id, profile, self.role, self.updated_at, self.custom)


class OrderItem(BaseModel):
    """A line of an order."""

    name: Annotated[str, single_line(500), NOT_EMPTY]
    quantity: Quantity
    unit_price: Money


@dataclass(frozen=True, slots=True)
class Items:
    """The first 100 lines of an order, and the number of the others."""

    kept: tuple[OrderItem, ...] = ()
    omitted: int = 0


def _read_items(value: Any, info: ValidationInfo) -> Items:
    if value is None:
        return Items()
    if not isinstance(value, list):
        warn(info, "left out: must be a list")
        return Items()
    context: Any = info.context
    warnings = context.below("items") if isinstance(context, Warnings) else Warnings()
    unknown: set[str] = set()
    items = [_read_item(item, warnings.below(index), unknown) for index, item in enumerate(value[:MAX_ITEMS])]
    omitted = len(value) - len(items)
    if omitted:
        warn(info, f"only the first {MAX_ITEMS} items are kept")
    return Items(tuple(item for item in items if item is not None), omitted)


def _read_item(value: Any, warnings: Warnings, unknown: set[str]) -> OrderItem | None:
    if not isinstance(value, dict):
        warnings.add("item left out: must be an object")
        return None
    try:
        item = OrderItem.model_validate(value, context=warnings)
    except ValidationError as error:
        [fault, *_] = error.errors()
        warnings.add(f"item left out: {message_of(fault)}", *fault["loc"])
        return None
    for name in value:
        if name not in OrderItem.model_fields and name not in unknown:  # warn once per order
            unknown.add(name)
            warnings.add(_UNKNOWN, name)
    return item


class PutOrder(Record):
    """An order, as the store sends it."""

    model_config = example(
        user_id="C-42",
        number="1007",
        status="shipped",
        total="59.90",
        currency="EUR",
        placed_at="2026-01-02T03:04:05Z",
        url="https://store.example/orders/1007",
        items=[{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}],
    )

    user_id: Annotated[StoreId, AnyId]
    number: Annotated[str, single_line(100), NOT_EMPTY]
    status: Annotated[str, single_line(100), NOT_EMPTY]
    total: Money
    currency: Currency
    placed_at: Timestamp
    url: Annotated[Link | None, OrNone] = None
    items: Annotated[
        Items,
        BeforeValidator(_read_items),
        WithJsonSchema(schema_of(list[OrderItem])),
        Field(json_schema_extra={"default": []}),
    ] = Items()
    updated_at: Annotated[Timestamp | None, OrNone] = None

    def to_upsert(self, order_id: str) -> OrderUpsert:
        """Return the order with this id."""
        fields = {name: getattr(self, name) for name in PutOrder.model_fields}
        items = [item.model_dump() for item in self.items.kept]
        return OrderUpsert(order_id, fields | {"items": items, "items_omitted": self.items.omitted})

    @property
    def omitted(self) -> int:
        """Return the number of items over the limit."""
        return self.items.omitted


class UserLine(PutUser):
    """A line of an import: a user, with the fields of `PUT /api/v1/store/users/{id}`."""

    model_config = example(type="user", id="C-42", name="A. Customer", email="customer@example.com")

    type: Literal["user"]
    id: Annotated[StoreId, AnyId]


class OrderLine(PutOrder):
    """A line of an import: an order, with the fields of `PUT /api/v1/store/orders/{id}`."""

    model_config = example(
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
    id: Annotated[StoreId, AnyId]


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Checked(Generic[R]):
    """A valid record with its warnings."""

    record: R
    warnings: Warnings

    @property
    def notes(self) -> dict[str, Any]:
        """Return additional fields of the response: warnings, and the number of items over the limit."""
        notes: dict[str, Any] = {"warnings": self.warnings.as_json()} if self.warnings.messages else {}
        return notes | ({"items_omitted": self.record.omitted} if self.record.omitted else {})


def check_record(kind: type[R], json_object: Mapping[str, Any]) -> Checked[R]:
    """Validate a record that was sent as a JSON object. Raises `Invalid`."""
    warnings = Warnings()
    try:
        record = kind.model_validate(json_object, context=warnings)
    except ValidationError as error:
        raise invalid_fields([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from None
    for name in json_object:
        if name not in kind.model_fields:
            warnings.add(_UNKNOWN, name)
    return Checked(record, warnings)
