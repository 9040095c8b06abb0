"""Routes for the page of the operators: the state of the service, and failed emails in bulk.

They need the permission `operations`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from services.notifications import metrics
from services.notifications.api.dependencies import Admin
from services.notifications.delivery.operations import retry_failed_emails_in_batches
from services.notifications.event_consumer.parked import discard_parked, list_parked, request_retry
from services.notifications.models import InboxEntry
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import MONTH
from shared.api.app_state import app_state
from shared.api.dependencies import DbSession
from shared.api.routing import ApiRouter
from shared.auth.principal import Permission, Principal
from shared.auth.tokens import check_permission
from shared.broker.reports import FRESH, Report, read_reports
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses
from shared.text import Text

MOST_RETRIED = 10_000  # emails of one request


async def _operator(caller: Admin) -> Principal:
    check_permission(caller, Permission.OPERATIONS)
    return caller


Operator = Annotated[Principal, Depends(_operator)]
ParkedId = Annotated[UUID, Path(description="The id of a parked event.")]

router = ApiRouter(
    prefix="/api/v1/notifications",
    tags=["Operations"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)


class BreakerOut(BaseModel):
    """An open circuit breaker: since when, the failure that opened it, and when the next email probes the server.

    `busy` means that the server has no capacity; otherwise the set-up is wrong. `reply` contains no address.
    """

    busy: bool
    trips: int
    since: datetime | None
    next_probe_at: datetime | None
    phase: str | None
    host: str | None
    reply: str


class ConsumerOut(BaseModel):
    """What a worker last reported about the broker. Without a `reason`, it can use the broker."""

    process: str
    reason: str | None
    detail: str | None
    since: datetime

    @classmethod
    def of(cls, report: Report) -> Self:
        """Convert a report."""
        return cls(process=report.process, reason=report.reason, detail=report.detail, since=report.since)


class OperationsState(BaseModel):
    """The state of the service.

    `position` is the event up to which the log is handled, `behind` the number of later events when it was last read.
    Emails are `late` if the oldest due one is a minute overdue. `sending` is `on-hold` after a restore, until the log
    has been read. Counts stop at 10,000. `tries` are those of the last hour, by outcome.
    """

    position: int
    behind: int
    rebuilding: str | None
    parked: int
    sending: Literal["on", "paused", "on-hold"]
    oldest_due_seconds: float
    late: bool
    held_back: int
    deferred: int
    deferred_reply: str | None
    breaker: BreakerOut | None
    emails: dict[EmailState, int]
    tries: dict[Outcome, int]
    consumers: list[ConsumerOut]

    @classmethod
    def of(cls, state: metrics.State, reports: Sequence[Report]) -> Self:
        """Convert the state; leave out workers that have ended."""
        breaker = state.breaker
        return cls(
            position=state.cursor,
            behind=state.head - state.cursor,
            rebuilding=state.rebuild_reason if state.rebuild_kind is not None else None,
            parked=state.parked,
            sending="paused" if state.paused else "on" if state.delivery_known else "on-hold",
            oldest_due_seconds=state.oldest_due,
            late=state.oldest_due > metrics.LATE,
            held_back=state.held_back,
            deferred=state.deferred.count,
            deferred_reply=state.deferred_reply,
            breaker=breaker
            and BreakerOut(
                busy=breaker.is_busy,
                trips=breaker.trips,
                since=breaker.since,
                next_probe_at=breaker.until,
                phase=breaker.phase,
                host=breaker.host,
                reply=breaker.reply,
            ),
            emails={EmailState(name): count for name, count in state.emails.items()},
            tries={Outcome(name): count for name, count in state.attempts.items()},
            consumers=[ConsumerOut.of(report) for report in sorted(reports) if report.age < FRESH],
        )


class ParkedOut(BaseModel):
    """An event that could not be handled, and why."""

    id: UUID
    type: str
    reason: str | None
    parked_at: datetime | None

    @classmethod
    def of(cls, entry: InboxEntry) -> Self:
        """Convert a parked event, without its content."""
        return cls(id=entry.event_id, type=entry.type, reason=entry.reason, parked_at=entry.parked_at)


class ParkedEvents(BaseModel):
    """The newest parked events."""

    items: list[ParkedOut]


class RetryFailed(BaseModel):
    """Which failed or bounced emails to retry: those of the last seconds, and those whose last reply has a text."""

    model_config = ConfigDict(extra="forbid")

    since_seconds: Annotated[int, Field(ge=1, le=3 * MONTH)] | None = None
    reply: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    state: Literal["failed", "bounced"] = "failed"


class Retried(BaseModel):
    """How many emails are due again, and how many were skipped because they may have arrived.

    If there are `more`, call again.
    """

    retried: int
    skipped: int
    more: bool


@router.get("/operations", summary="Get the state of the service")
async def get_operations(_: Operator, session: DbSession) -> OperationsState:
    """Return the state of the service: inbox, workers, emails and the mail server."""
    return OperationsState.of(await metrics.read_state(session), await read_reports(session))


@router.get("/parked", summary="List parked events")
async def list_parked_events(
    _: Operator, session: DbSession, limit: Annotated[int, Query(ge=1, le=100, description="Maximum number.")] = 25
) -> ParkedEvents:
    """List the parked events (dead letters), newest first."""
    return ParkedEvents(items=[ParkedOut.of(entry) for entry in await list_parked(session, limit)])


@router.post(
    "/parked/{event_id}/retry", summary="Retry a parked event", status_code=204, responses=problem_responses(NotFound)
)
async def retry_parked_event(event_id: ParkedId, _: Operator, session: DbSession) -> None:
    """Have a parked event handled again, within seconds. If it fails, it stays parked, with its error as the reason."""
    await request_retry(session, event_id)


@router.post(
    "/parked/{event_id}/discard",
    summary="Discard a parked event",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def discard_parked_event(event_id: ParkedId, _: Operator, session: DbSession) -> None:
    """Give a parked event up: its notification and its email are never made."""
    await discard_parked(session, event_id)


@router.post("/emails/retry", summary="Retry failed emails in bulk")
async def retry_failed_emails(body: RetryFailed, _: Operator, request: Request) -> Retried:
    """Queue failed or bounced emails for another attempt, 10,000 at most. Emails that may have arrived are skipped."""
    since = timedelta(seconds=body.since_seconds) if body.since_seconds is not None else None
    literal = f"***={body.reply}" if body.reply is not None else None  # PostgreSQL's mark for a text that is no pattern
    retried, skipped = await retry_failed_emails_in_batches(
        app_state(request).sessions, since=since, reply=literal, state=EmailState(body.state), most=MOST_RETRIED
    )
    return Retried(retried=retried, skipped=skipped, more=retried == MOST_RETRIED)
