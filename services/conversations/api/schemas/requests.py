"""The request bodies of customers and admins. The store's are in `catalog.schemas`."""

from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from services.conversations.rules import (
    ATTACHMENT_LIMIT,
    BODY_LENGTH,
    BULK_LIMIT,
    SUBJECT_LENGTH,
    ChosenStatus,
    Status,
)
from shared.api.json_schema import example
from shared.paging import MAX_NUMBER
from shared.people import StoreId
from shared.text import MultiLine, OneLine, Visible


def _once_each(ids: list[UUID]) -> list[UUID]:
    if len(set(ids)) < len(ids):
        raise PydanticCustomError("repeated_attachment", "must not repeat an id")
    return ids


def _text_or_files(text: str | None, info: ValidationInfo) -> str | None:
    """Require a text if there are no files."""
    if not text and not info.data.get("attachments"):
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return text


def _blank_with_files_only(text: str | None, info: ValidationInfo) -> str | None:
    """Accept an empty text if there are files, as if it was left out."""
    return None if text is None else _text_or_files(text, info) or None


def _text_unless_files(**fields: Any) -> ConfigDict:
    """Return the configuration of a message's schema, with an example. The document says when a text is required."""
    required: list[JsonValue] = [
        {"required": ["body"]},
        {"properties": {"attachments": {"minItems": 1}}, "required": ["attachments"]},
    ]
    return ConfigDict(json_schema_extra={"examples": [fields], "anyOf": required})


Subject = Annotated[
    OneLine,
    Visible,
    StringConstraints(min_length=1, max_length=SUBJECT_LENGTH),
    Field(
        description="One line; its length counts after trimming. Line separators other than CR and LF become spaces."
    ),
]
Body = Annotated[
    MultiLine,
    StringConstraints(min_length=1, max_length=BODY_LENGTH),
    Field(description="Plain text without NUL. Empty lines at the start and white space at the end are removed."),
]
OptionalBody = Annotated[
    MultiLine,
    StringConstraints(max_length=BODY_LENGTH),
    Field(
        description="Plain text without NUL, trimmed like other messages. May be left out or empty if there are files."
    ),
]
Attachments = Annotated[
    list[UUID],
    AfterValidator(_once_each),
    Field(max_length=ATTACHMENT_LIMIT, description="The ids of uploaded files that were not sent yet, in their order."),
]
MessageNumber = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]


class Request(BaseModel):
    """A request body that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class CreateConversation(Request):
    """A customer's new conversation, optionally about one of their orders and with a first message."""

    model_config = example(subject="Where is my parcel?", order_id="A-1007", body="It should be here by now.")

    subject: Subject
    order_id: StoreId | None = None
    attachments: Attachments = []
    body: OptionalBody | None = None

    _reject_blank = field_validator("body", mode="after")(_blank_with_files_only)


class AdminCreateConversation(Request):
    """An admin's new conversation with a customer."""

    model_config = _text_unless_files(user_id="C-42", subject="Your order A-1007", body="It will be a day late.")

    user_id: StoreId
    subject: Subject
    attachments: Attachments = []
    body: Annotated[OptionalBody, Field(validate_default=True)] = ""
    order_id: StoreId | None = None
    status: Status | None = None

    _require_text_or_files = field_validator("body", mode="after")(_text_or_files)


class Merge(Request):
    """The customer into whom another one is merged."""

    model_config = example(into="C-42")

    into: StoreId


class PostMessage(Request):
    """A message. It is rejected if the other side has written messages newer than `seen_number`."""

    model_config = _text_unless_files(body="Thank you!", seen_number=3)

    attachments: Attachments = []
    body: Annotated[OptionalBody, Field(validate_default=True)] = ""
    seen_number: MessageNumber | None = None

    _require_text_or_files = field_validator("body", mode="after")(_text_or_files)


class EditConversation(Request):
    """An edit of a conversation: a reply, a status, or both at once."""

    model_config = example(reply_body="It is on its way.", status="RESOLVED", seen_number=4)

    status: Annotated[
        ChosenStatus | None,
        Field(description="`KEEP`, with a reply only, leaves the status as it is instead of `AWAITING_USER`."),
    ] = None
    attachments: Attachments = []
    reply_body: OptionalBody | None = None
    seen_number: Annotated[
        MessageNumber | None,
        Field(description="The newest message on the screen: 409 `newer-messages` if the customer has written since."),
    ] = None
    expected_status: Annotated[
        Status | None,
        Field(
            description="409 `status-changed` if the conversation has another status. With it, and without a reply,"
            " newer messages of admins count for `seen_number` too, so that undoing a status never undoes more."
        ),
    ] = None

    _reject_blank = field_validator("reply_body", mode="after")(_blank_with_files_only)

    @property
    def is_reply(self) -> bool:
        """Return whether the edit sends a message: a text, files, or both."""
        return self.reply_body is not None or bool(self.attachments)

    @model_validator(mode="after")
    def _require_a_change(self) -> Self:
        if self.status is None and not self.is_reply:
            raise PydanticCustomError("empty_edit", "send a status, a reply_body, or both")
        if self.status is ChosenStatus.KEEP and not self.is_reply:
            raise PydanticCustomError("keep_without_reply", "the status KEEP needs a reply_body")
        return self


class MarkRead(Request):
    """The number of the newest message that the reader has read."""

    model_config = example(up_to=4)

    up_to: MessageNumber


class Viewing(Request):
    """Reports that an admin is viewing a conversation, or with `gone` has left it; `writing` a reply or no longer."""

    model_config = example(writing=True)

    gone: StrictBool = False
    writing: StrictBool | None = None


class BulkDelete(Request):
    """The conversations to delete, all or none. Repeated ids count once."""

    model_config = example(ids=["0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42"])

    ids: Annotated[list[UUID], Field(min_length=1, max_length=BULK_LIMIT)]
