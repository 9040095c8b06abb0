"""The query of the inbox: its filters, and the links that change them."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, Query
from pydantic import BaseModel, Field, model_validator

from services.conversations.desk.labels import fold
from services.conversations.messaging.listing import Filters
from services.conversations.records import ConversationDetail
from services.conversations.rules import ACTIVE, BULK_LIMIT, WAITING, Status
from services.conversations.web.rendering import ADMIN_ROOT
from shared.api.dependencies import Cursor
from shared.text import Text

_VIEWS = {
    Filters(): "all",
    Filters(status=tuple(sorted(WAITING))): "waiting",
    Filters(unread=True): "unread",
    Filters(status=tuple(sorted(ACTIVE)), assignee_id="me"): "mine",
    Filters(status=tuple(sorted(ACTIVE)), unassigned=True): "unassigned",
    Filters(held=True): "held",
}
_NOTICES = ("deleted", "changed", "left_alone")
_SORTED = {"waiting": "waiting"}  # by view; the others are sorted by activity


_Count = Annotated[int, Field(ge=0, le=BULK_LIMIT)] | None


class InboxQuery(BaseModel):
    """The query parameters of the inbox, and of a conversation that is open beside it. Blank ones count as missing.

    `q` is a search, whose results have the order of activity. `user_id` may be any text to find a customer by.
    The last three are the numbers for the notice after a deletion or a change of many.
    """

    q: Text | None = None
    status: list[Status] = []
    unread: bool | None = None
    user_id: Text | None = None
    order_number: Text | None = None
    assigned: Literal["me", "none"] | None = None
    assignee_id: Text | None = None
    label: Text | None = None
    held: bool | None = None
    sort: Literal["activity", "waiting"] = "activity"
    cursor: Cursor = None
    deleted: _Count = None
    changed: _Count = None
    left_alone: _Count = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        values = {name: _without_blanks(value) for name, value in parameters.items()}
        if values.get("q"):
            values.pop("sort", None)
        if values.get("assigned"):
            values.pop("assignee_id", None)
        return {name: value for name, value in values.items() if value}

    def filters_for(self, admin_id: str, label_id: int | None) -> Filters:
        """Return the filters of an admin's list; `label_id` is the id of the label."""
        return Filters(
            tuple(sorted(set(self.status))),
            self.unread,
            self.user_id,
            order_number=self.order_number,
            assignee_id=admin_id if self.assigned == "me" else self.assignee_id,
            unassigned=self.assigned == "none",
            label_id=label_id,
            held=self.held,
        )

    @cached_property  # each row asks
    def filters(self) -> Filters:
        """The filters, to compare them: without the ids of the admin and the label."""
        return self.filters_for("me", -1 if self.label else None)

    def still_match(self, detail: ConversationDetail, admin_id: str) -> bool:
        """Return whether a conversation that was listed matches the filters that its changes can affect."""
        desk = detail.desk
        assert desk is not None  # noqa: S101 - admins' queries load it
        by_assignee = self.assignee_id in (None, desk.assignee_id)
        is_assigned = {None: by_assignee, "me": desk.assignee_id == admin_id, "none": desk.assignee_id is None}
        is_labelled = self.label is None or fold(self.label) in map(fold, desk.labels)
        is_held = self.held in (None, desk.held_ids is not None)
        return is_assigned[self.assigned] and is_labelled and is_held and self.filters.still_match(detail.conversation)

    @property
    def view(self) -> str | None:
        """The name of the view in the navigation that has these filters, or None."""
        return None if self.q else _VIEWS.get(self.filters)

    @property
    def has_filters(self) -> bool:
        """Whether there are filters to clear."""
        return self.filters != Filters() or self.q is not None

    @property
    def has_own_filters(self) -> bool:
        """Whether there are filters that neither a view nor the name of a customer shows."""
        is_view = self.view is not None and self.sort == _SORTED.get(self.view, "activity")
        return not is_view and (self.filters != Filters(user_id=self.user_id) or self.sort == "waiting")

    @property
    def counts_apply(self) -> bool:
        """Whether the list of a status is as long as the count of all its conversations."""
        return self.filters == Filters(status=self.filters.status) and self.q is None

    @cached_property  # each row asks
    def query(self) -> str:
        """The query string of this page of the list, or nothing; a conversation keeps it in its own URL."""
        return self.with_list()

    @property
    def url(self) -> str:
        """The URL of this page of the list."""
        return f"{ADMIN_ROOT}{self.query}"

    @property
    def kept_by_search(self) -> Iterator[tuple[str, str]]:
        """The fields that a search keeps."""
        return self._fields(q=None)

    @property
    def kept_by_customer(self) -> Iterator[tuple[str, str]]:
        """The fields that a choice of customers keeps."""
        return self._fields(user_id=None)

    @property
    def kept_by_order(self) -> Iterator[tuple[str, str]]:
        """The fields that a search for an order number keeps."""
        return self._fields(order_number=None)

    def toggled(self, status: Status) -> str:
        """Return the URL of the list with a status added to the filter, or removed from it."""
        return self.address(status=sorted({selected.value for selected in self.status} ^ {status.value}))

    def address(self, **changes: Any) -> str:
        """Return the URL of the list with changed parameters: its first page, unless a cursor is given."""
        return ADMIN_ROOT + _query(self._parameters() | changes)

    def with_list(self, **parameters: Any) -> str:
        """Return the query string of a page's own parameters and this page of the list."""
        return _query(self._parameters() | {"cursor": self.cursor} | parameters)

    def _parameters(self) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude={"cursor", *_NOTICES}, exclude_defaults=True)
        if self.unread is not None:
            values["unread"] = "true" if self.unread else "false"
        if self.held is not None:
            values["held"] = "true" if self.held else "false"
        return values

    def _fields(self, **changes: None) -> Iterator[tuple[str, str]]:
        for name, value in (self._parameters() | changes).items():
            for item in value if isinstance(value, list) else [value]:
                if item is not None:
                    yield name, item


def _query(parameters: dict[str, Any]) -> str:
    """Return a query string with the list's parameters in one order, so that scripts can compare URLs."""
    names = [*(name for name in InboxQuery.model_fields if name in parameters), *parameters]
    query = urlencode({name: parameters[name] for name in names if parameters[name] is not None}, doseq=True)
    return f"?{query}" if query else ""


def _without_blanks(value: Any) -> Any:
    if isinstance(value, list):
        return [item for item in value if _without_blanks(item)]
    return value.strip() if isinstance(value, str) else value


async def _read(inbox: Annotated[InboxQuery, Query()]) -> InboxQuery:
    # FastAPI reads a model's fields from the query only where it is the only parameter.
    return inbox


ListQuery = Annotated[InboxQuery, Depends(_read)]
