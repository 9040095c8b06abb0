"""The bodies of requests and responses of the desk: notes, assignment, labels, canned replies, bulk, the timeline."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from services.conversations.api.schemas.requests import Body, MessageNumber, Request
from services.conversations.api.schemas.responses import AdminOut, MessageOut, Viewer
from services.conversations.desk.bulk import BulkResult
from services.conversations.desk.canned_replies import VARIABLES, CannedReplyFields, CannedReplyRow, unknown_variables
from services.conversations.desk.labels import LabelRow
from services.conversations.desk.timeline import EntryRow
from services.conversations.records import MessageRow
from services.conversations.rules import BULK_LIMIT, LABEL_LENGTH, LABEL_LIMIT, MENTION_LIMIT, EntryKind, Status
from shared.api.json_schema import example
from shared.api.response_body import ResponseBody, UuidText
from shared.people import LocaleTag, StoreId
from shared.text import OneLine, Visible

LabelName = Annotated[OneLine, Visible, StringConstraints(min_length=1, max_length=LABEL_LENGTH)]
Labels = Annotated[list[LabelName], Field(max_length=LABEL_LIMIT)]


class Assign(Request):
    """The admin to assign, null for nobody. It is rejected if `expected` is given and is not the present assignee."""

    model_config = example(admin_id="A-1", expected=None)

    admin_id: StoreId | None
    expected: StoreId | None = None


class ChangeLabels(Request):
    """Labels to add to a conversation, and to remove from it."""

    model_config = example(add=["damaged"], remove=["late"])

    add: Labels = Field(default_factory=list)
    remove: Labels = Field(default_factory=list)


class RenameLabel(Request):
    """The new name of a label."""

    model_config = example(name="damaged in transit")

    name: LabelName


class WriteNote(Request):
    """A note for other admins, and the ids of those whom it mentions."""

    model_config = example(body="Refunded by phone.", mentions=["A-2"])

    body: Body
    mentions: Annotated[list[StoreId], Field(max_length=MENTION_LIMIT)] = Field(default_factory=list)


class SeenConversation(Request):
    """A conversation, and the number of its newest message that the caller has seen."""

    id: UUID
    seen_number: MessageNumber


class ChangeMany(Request):
    """What to change in each of the conversations; those with newer messages are left alone.

    `assignee_id` null assigns to nobody. A repeated id counts once, with its smallest `seen_number`.
    """

    model_config = example(
        items=[{"id": "0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42", "seen_number": 3}], status="RESOLVED", read=True
    )

    items: Annotated[list[SeenConversation], Field(min_length=1, max_length=BULK_LIMIT)]
    status: Status | None = None
    read: StrictBool | None = None
    assignee_id: StoreId | None = None
    add_labels: Labels = Field(default_factory=list)
    remove_labels: Labels = Field(default_factory=list)

    @model_validator(mode="after")
    def _require_a_change(self) -> Self:
        values = (self.status, self.read, self.add_labels or None, self.remove_labels or None)
        if "assignee_id" not in self.model_fields_set and not any(value is not None for value in values):
            msg = "send at least one of status, read, assignee_id, add_labels and remove_labels"
            raise PydanticCustomError("empty_change", msg)
        return self


def _known_variables(body: str) -> str:
    if unknown := unknown_variables(body):
        raise PydanticCustomError(
            "unknown_variable",
            "unknown variables: {unknown}; these are known: {known}",
            {"unknown": ", ".join(unknown), "known": ", ".join(VARIABLES)},
        )
    return body


def _usual_spelling(tag: str) -> str:
    """Return `de-AT` for `de_at` (BCP 47)."""
    language, *others = tag.replace("_", "-").split("-")
    spelled = {2: str.upper, 4: str.title}  # regions and scripts
    return "-".join((language.lower(), *(spelled.get(len(part), str.lower)(part) for part in others)))


class WriteCannedReply(Request):
    """A canned reply. Its body may contain variables in double braces, such as `{{customer.first_name}}`."""

    model_config = example(
        shortcut="late", title="Parcel is late", body="Hello {{customer.first_name}}, {{order.number}} is late."
    )

    shortcut: Annotated[OneLine, StringConstraints(min_length=1, max_length=50, pattern=r"^\S+$")]
    title: Annotated[OneLine, Visible, StringConstraints(min_length=1, max_length=200)]
    body: Annotated[Body, AfterValidator(_known_variables)]
    # In one spelling: a shortcut is unique in its language.
    locale: Annotated[LocaleTag, AfterValidator(_usual_spelling)] | None = None

    @property
    def fields(self) -> CannedReplyFields:
        """The fields to save."""
        return CannedReplyFields(self.shortcut, self.title, self.body, self.locale)


class LabelOut(ResponseBody):
    """A label."""

    name: str

    @classmethod
    def of(cls, label: LabelRow) -> Self:
        """Convert a label."""
        return cls(name=label.name)


class NoteOut(ResponseBody):
    """A note of the timeline. Once its author deleted it, `deleted` is true and the text is gone."""

    kind: Literal["note"]
    id: UUID
    at: datetime
    actor: AdminOut
    body: str
    mentions: list[AdminOut]
    deleted: bool


class StatusOut(ResponseBody):
    """A status that an admin set; without an actor, one that followed from the customer's silence."""

    kind: Literal["status"]
    id: UUID
    at: datetime
    actor: AdminOut | None
    previous_status: Status
    status: Status


class AssignmentOut(ResponseBody):
    """A change of the assignee; null means nobody."""

    kind: Literal["assignment"]
    id: UUID
    at: datetime
    actor: AdminOut
    previous_assignee: AdminOut | None
    assignee: AdminOut | None


class LabelsChangedOut(ResponseBody):
    """Labels that an admin added and removed, by their names at that time."""

    kind: Literal["labels"]
    id: UUID
    at: datetime
    actor: AdminOut
    added: list[str]
    removed: list[str]


class RemovalOut(ResponseBody):
    """The removal of a message's text."""

    kind: Literal["removal"]
    id: UUID
    at: datetime
    actor: AdminOut
    message_id: UUID
    number: int


class PostedEmailOut(ResponseBody):
    """An email that an admin posted by hand; without an actor, an operator on the command line.

    `from_address` is the address that it came from, null once that was erased. It became the message `message_id`, or
    is the note with that id.
    """

    kind: Literal["posted-email"]
    id: UUID
    at: datetime
    actor: AdminOut | None
    from_address: str | None
    message_id: UUID
    number: int

    @classmethod
    def of(cls, row: EntryRow, actor: AdminOut | None) -> Self:
        """Convert an entry."""
        data = row.data
        values = (data.get("from"), UUID(data["message_id"]), data["number"])
        return cls("posted-email", row.id, row.at, actor, *values)


class EmailOut(ResponseBody):
    """What became of an email about the conversation, which contained messages with these numbers.

    `to` is the side that it is for, such as `customer` or `support`. `state` and `reason` are those of the
    notifications service, now since `state_at`; `at` is when something first became of it. Clients take unknown values
    as they are. A `scheduled` one is tried again.
    """

    kind: Literal["email"]
    id: UUID
    at: datetime
    actor: None
    to: str
    state: str
    reason: str | None
    numbers: list[int]
    state_at: datetime

    @classmethod
    def of(cls, row: EntryRow) -> Self:
        """Convert an entry."""
        data = row.data
        state_at = datetime.fromisoformat(data["at"]) if "at" in data else row.at
        return cls(
            "email", row.id, row.at, None, data["to"], data["state"], data.get("reason"), data["numbers"], state_at
        )


class PostedOut(ResponseBody):
    """A message of the timeline; `actor` is its sender."""

    kind: Literal["message"]
    id: UuidText
    at: datetime
    actor: AdminOut
    message: MessageOut


TimelineEntry = NoteOut | StatusOut | AssignmentOut | LabelsChangedOut | RemovalOut | EmailOut | PostedEmailOut
TimelineItem = PostedOut | TimelineEntry


@dataclass(slots=True)
class Timeline:
    """A page of a timeline. `emails_known_until` is null while the status of emails is up to date.

    Else it is the time up to which it is known, because the notifications service is away or was not read.
    """

    items: list[TimelineItem]
    next_cursor: str | None
    emails_known_until: datetime | None


def timeline_item(row: MessageRow | EntryRow, viewer: Viewer) -> TimelineItem:
    """Convert a message or an entry of the timeline."""
    if isinstance(row, EntryRow):
        return entry_of(row)
    message = MessageOut.of(row, viewer)
    actor = AdminOut(id=row.sender_id, name=message.sender.name)
    return PostedOut("message", message.id, message.created_at, actor, message)


def entry_of(row: EntryRow) -> TimelineEntry:  # noqa: PLR0911 - a return per kind is the table it is
    """Convert an entry of the timeline."""
    data, kind = row.data, EntryKind(row.kind)
    if row.actor_id is None:
        return _by_itself(row)
    actor = AdminOut.of(row.actor_id, row.actor_name, deleted=bool(row.actor_deleted))
    base = (row.id, row.at, actor)
    match kind:
        case EntryKind.NOTE:
            mentions = [_admin(row, admin_id) for admin_id in data.get("mentions", ())]
            return NoteOut("note", *base, data.get("body", ""), mentions, "deleted" in data)
        case EntryKind.STATUS:
            return StatusOut("status", *base, Status(data["from"]), Status(data["to"]))
        case EntryKind.ASSIGNMENT:
            before, after = (None if data[end] is None else _admin(row, data[end]) for end in ("from", "to"))
            return AssignmentOut("assignment", *base, before, after)
        case EntryKind.LABELS:
            return LabelsChangedOut("labels", *base, data["added"], data["removed"])
        case EntryKind.REMOVAL:
            return RemovalOut("removal", *base, UUID(data["message_id"]), data["number"])
        case EntryKind.POSTED_EMAIL:
            return PostedEmailOut.of(row, actor)
    raise AssertionError(kind)  # an entry that nobody wrote


def _by_itself(row: EntryRow) -> StatusOut | EmailOut | PostedEmailOut:
    if row.kind == EntryKind.EMAIL:
        return EmailOut.of(row)
    if row.kind == EntryKind.POSTED_EMAIL:
        return PostedEmailOut.of(row, None)
    return StatusOut("status", row.id, row.at, None, Status(row.data["from"]), Status(row.data["to"]))


def _admin(row: EntryRow, admin_id: str) -> AdminOut:
    name, is_deleted = row.people.get(admin_id) or (None, False)
    return AdminOut.of(admin_id, name, deleted=is_deleted)


class CannedReplyOut(ResponseBody):
    """A canned reply."""

    id: UUID
    shortcut: str
    title: str
    body: str
    locale: str | None

    @classmethod
    def of(cls, row: CannedReplyRow) -> Self:
        """Convert a canned reply."""
        return cls(*row)


class FilledReply(ResponseBody):
    """A canned reply's text for a conversation. `empty` names the variables that have no value there."""

    body: str
    empty: list[str]


class ChangedMany(ResponseBody):
    """What became of the conversations of a bulk change.

    `changed_meanwhile` have newer messages and were left alone; `missing` no longer exist.
    """

    changed: int
    unchanged: int
    changed_meanwhile: list[UUID]
    missing: list[UUID]

    @classmethod
    def of(cls, result: BulkResult) -> Self:
        """Convert the result."""
        return cls(result.changed, result.unchanged, result.changed_meanwhile, result.missing)
