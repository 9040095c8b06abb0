"""The bodies of the routes of webhooks."""

from collections.abc import Sequence
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from services.conversations.models import Webhook
from services.conversations.rules import DeliveryState, WebhookError, WebhookOff, WebhookType
from services.conversations.webhooks.deliveries import DeliveryRow
from shared.api.response_body import ResponseBody
from shared.text import OneLine

Url = Annotated[
    str,
    Field(
        description="Where to send events: https, without a user, at a public address. The operator can allow hosts of"
        " private networks.",
        max_length=2000,
    ),
]
Types = Annotated[
    list[WebhookType],
    Field(min_length=1, max_length=len(WebhookType), description="The types of events to send, each once."),
    AfterValidator(lambda types: list(dict.fromkeys(types))),
]
Description = Annotated[
    OneLine, StringConstraints(max_length=200), Field(description="A note for people. Empty: none.")
]


def _text(value: object) -> object:
    if isinstance(value, int | float):  # its unit is unknown
        raise ValueError("must be a date and time, such as 2026-11-29T00:00:00Z")  # noqa: TRY004 - pydantic needs it
    return value


Moment = Annotated[datetime, BeforeValidator(_text)]


class CreateWebhook(BaseModel):
    """A new webhook."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": "https://store.example/hooks/chats", "types": ["message.posted"]}]},
    )

    url: Url
    types: Types
    description: Description | None = None


class ChangeWebhook(BaseModel):
    """The fields to change."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": True}]})

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: Annotated[
        bool | None,
        Field(
            strict=True, description="`false`: nothing is sent, and no event is kept. `true`: what is pending goes on."
        ),
    ] = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError("send at least one of url, types, description and enabled")
        return self


class ReplaceSecret(BaseModel):
    """How long the previous secret signs, too."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"keep_previous_hours": 24}]})

    keep_previous_hours: Annotated[
        float,
        Field(
            strict=True,
            ge=0,
            le=168,
            description="Until then, each request has two signatures. 0: the old one ends now.",
        ),
    ] = 24


class ReplayRange(BaseModel):
    """Which deliveries to send again."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={"examples": [{"from": "2026-11-28T00:00:00Z", "to": "2026-11-29T00:00:00Z"}]},
    )

    start: Annotated[Moment, Field(alias="from", description="Only those that were created from then on.")]
    end: Annotated[
        Moment | None, Field(alias="to", description="Only those that were created before. Default: now.")
    ] = None
    failed_only: Annotated[bool, Field(strict=True, description="Leave out what was delivered.")] = False

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        for moment in (self.start, self.end):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("times need a zone, for example 2026-11-29T00:00:00Z")
            if moment is not None and not MINYEAR < moment.year < MAXYEAR:  # the database stores no others
                raise ValueError(f"times must be between the years {MINYEAR + 1} and {MAXYEAR - 1}")
        if self.end is not None and self.end <= self.start:
            raise ValueError("`to` must be after `from`")
        return self


class WebhookOut(ResponseBody, kw_only=True):
    """A webhook. `failing_since` is the first of the failures since its last success.

    Nothing is sent before `paused_until`. `disabled_reason` is why it is not enabled: on request, because its endpoint
    answered 410 (`gone`), or because every attempt failed for five days (`failing`).
    """

    id: UUID
    url: str
    types: list[str]
    description: str | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: WebhookOff | None
    failures: int
    failing_since: datetime | None
    paused_until: datetime | None
    previous_secret_until: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Convert a webhook."""
        return cls(**_fields(webhook))


class WebhookWithSecret(WebhookOut, kw_only=True):
    """A webhook with its secret, which no other response has.

    A repeated request has null if it created the webhook, or if its new secret is no longer the present one.
    """

    secret: str | None

    @classmethod
    def of(cls, webhook: Webhook, *, shown: bool = True) -> Self:
        """Convert a new webhook, or one with a new secret."""
        return cls(**_fields(webhook), secret=webhook.secret if shown else None)


class DeliveryOut(ResponseBody, kw_only=True):
    """An event for a webhook, and its last attempt.

    `event_id` is what the endpoint gets as `webhook-id`. `due_at` is null while another delivery of its conversation is
    before it, and once it has ended. `status` and `response`, its first 4 KiB, are the endpoint's answer; of an answer
    of 2xx the text is not kept. `error` says why the attempt failed. `replay_of` is the delivery that is sent again.
    """

    id: int
    webhook_id: UUID
    event_id: UUID
    type: str
    at: datetime
    conversation_id: UUID | None
    state: DeliveryState
    due_at: datetime | None
    attempts: int
    attempted_at: datetime | None
    status: int | None
    error: WebhookError | None
    response: str | None
    duration_ms: int | None
    replay_of: int | None
    created_at: datetime

    @classmethod
    def of(cls, row: DeliveryRow) -> Self:
        """Convert a delivery."""
        values = row._asdict()
        del values["message_id"]
        values["state"] = DeliveryState(row.state)
        values["error"] = None if row.error is None else WebhookError(row.error)
        return cls(**values)


class Replayed(ResponseBody):
    """How many deliveries are sent again. `next_from` is present if there are more: repeat the request from there."""

    replayed: int
    next_from: Annotated[datetime | None, Field(exclude_if=lambda moment: moment is None)] = None


def _fields(webhook: Webhook) -> dict[str, Any]:
    names: Sequence[str] = ("id", "url", "description", "disabled_at", "failures", "failing_since", "paused_until")
    reason = webhook.disabled_reason
    return {name: getattr(webhook, name) for name in (*names, "created_at")} | {
        "types": list(webhook.types),
        "enabled": webhook.disabled_at is None,
        "disabled_reason": None if reason is None else WebhookOff(reason),
        "previous_secret_until": webhook.old_secret_until if webhook.old_secret else None,
    }
