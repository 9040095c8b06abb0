"""The service's state, read from its tables for Prometheus and `chats status`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import Gauge
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery import erasure
from services.notifications.delivery.bounces import read_state as read_bounces
from services.notifications.mail.replies import enhanced_status, is_busy_reply, without_addresses
from services.notifications.models import DEFERRED
from services.notifications.rules import EmailState, Outcome
from shared.database.identity import database_identity_sql
from shared.database.metrics import measure_database
from shared.database.transactions import SessionFactory, transaction

CURSOR = Gauge("chats_inbox_cursor", "Position in the event log up to which events are handled")
LAG = Gauge("chats_inbox_lag_events", "Events after that position, when the log was last read")
REBUILDING = Gauge("chats_inbox_rebuilding", "1 while rebuilding from a snapshot because the log position was lost")
PARKED = Gauge("chats_inbox_parked", "Parked events (dead letters)")
EMAILS = Gauge("chats_emails", "Emails by state, up to 10,000", ["state"])
HELD_BACK = Gauge("chats_emails_held_back", "Emails held back by recipient limits, up to 10,000")
OLDEST_DUE = Gauge("chats_emails_oldest_due_seconds", "Age of the oldest due email that has not been sent")
ATTEMPTS = Gauge("chats_email_tries", "Delivery attempts in the last hour by outcome", ["outcome"])
DEFERRED_EMAILS = Gauge("chats_emails_deferred", "Emails waiting for another attempt, up to 10,000")
STANDSTILL = Gauge(
    "chats_emails_standstill", "1 while emails wait for another attempt and none was accepted in the last hour"
)
PAUSED = Gauge(
    "chats_emails_paused", "1 while sending is paused by an operator, or on hold after a restore", ["reason"]
)
BREAKER = Gauge("chats_email_breaker_trips", "Consecutive failures of the mail setup or the mail server")
BREAKER_SINCE = Gauge("chats_email_breaker_since_timestamp_seconds", "When the breaker opened; 0 if it is closed")
NEXT_PROBE = Gauge("chats_email_breaker_next_probe_timestamp_seconds", "Next probe of an open breaker; 0 if closed")
# Only the codes of the reply: its text may quote an address.
BREAKER_INFO = Gauge(
    "chats_email_breaker_info", "1 while the breaker is open, with the last failure", ["phase", "host", "reply"]
)

BOUNCED = Gauge("chats_bounced_addresses", "Addresses at which emails bounced for good in the last hour")
SENDER_REFUSED = Gauge("chats_bounced_sender_refused", "Addresses whose servers refused our sender in the last hour")
SUPPRESSED = Gauge("chats_suppressed_addresses", "Addresses to which no email is sent any more, up to 10,000")
SUSPENDED = Gauge("chats_suppressing_suspended", "1 while so many emails bounce that no address is suppressed")

LATE = 60.0  # seconds that an email is overdue, after which emails are late
FINISHED = frozenset(set(EmailState) - {EmailState.SCHEDULED, EmailState.SENDING})
STANDSTILL_COUNT = 3  # emails that wait for another attempt while none is accepted
MAX_COUNT = 10_000  # emails of one state that are counted, so that the query does not grow with the table


@dataclass(frozen=True, slots=True)
class Breaker:
    """An open breaker: when it opened, the last failure, and the time of the next probe."""

    trips: int
    since: datetime | None
    until: datetime | None
    phase: str | None
    host: str | None
    code: int | None
    reason: str | None

    @property
    def is_busy(self) -> bool:
        """Whether the server is busy; otherwise the setup must be checked."""
        return is_busy_reply(self.phase, self.code)

    @property
    def reply(self) -> str:
        """The mail server's reply or the error, without the addresses that it quotes."""
        return without_addresses(f"{self.code or ''} {self.reason or ''}".strip())

    @property
    def status(self) -> str:
        """The reply's code and enhanced status code."""
        return f"{self.code or ''} {enhanced_status(self.reason or '') or ''}".strip()


@dataclass(frozen=True, slots=True)
class Deferred:
    """Emails waiting for another attempt: how many, the most attempts of one, the last reply to the oldest."""

    count: int
    max_attempts: int
    last_reply: str | None


@dataclass(frozen=True, slots=True)
class State:
    """The state of the service."""

    cursor: int
    head: int
    parked: int
    rebuild_reason: str | None
    rebuild_kind: str | None
    rebuilt_at: datetime | None
    oldest_due: float
    delivery_known: bool
    paused: bool
    breaker: Breaker | None
    """None when it is closed."""
    deferred: Deferred
    held_back: int
    emails: dict[str, int]
    attempts: dict[str, int]

    @property
    def deferred_reply(self) -> str | None:
        """The last reply to the oldest deferred email, without the addresses that it quotes."""
        if not self.deferred.count:
            return None
        return without_addresses(self.deferred.last_reply or "no reply")

    @property
    def is_standstill(self) -> bool:
        """Whether the mail server accepts none of the emails that it deferred, and no other."""
        is_waiting = self.deferred.max_attempts > 1 or self.deferred.count >= STANDSTILL_COUNT
        return is_waiting and not self.attempts.get(Outcome.ACCEPTED)


async def read_state(session: AsyncSession) -> State:
    """Read the state of the service."""
    row = (await session.execute(_STATE, {"most": MAX_COUNT})).one()
    breaker = Breaker(*(await session.execute(_BREAKER)).one())
    deferred = Deferred(*(await session.execute(_DEFERRED, {"most": MAX_COUNT})).one())
    emails = (await session.execute(_EMAILS, {"finished": list(FINISHED), "most": MAX_COUNT})).all()
    attempts = (await session.execute(_ATTEMPTS)).all()
    return State(
        **row._mapping,  # noqa: SLF001 - its public name
        breaker=breaker if breaker.trips else None,
        deferred=deferred,
        emails=_counts(emails),
        attempts=_counts(attempts),
    )


def _counts(rows: Sequence[Row[*tuple[Any, ...]]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows if row[1]}


async def collect(sessions: SessionFactory) -> None:
    """Set the gauges."""
    async with transaction(sessions) as session:
        state = await read_state(session)
        stalled = (await erasure.read_state(session)).stalled_seconds
        bounces = await read_bounces(session)
        await measure_database(session, "notifications", stalled)
    CURSOR.set(state.cursor)
    LAG.set(state.head - state.cursor)
    REBUILDING.set(state.rebuild_kind is not None)
    PARKED.set(state.parked)
    HELD_BACK.set(state.held_back)
    OLDEST_DUE.set(state.oldest_due)
    DEFERRED_EMAILS.set(state.deferred.count)
    STANDSTILL.set(state.is_standstill)
    BOUNCED.set(bounces.bounced)
    SENDER_REFUSED.set(bounces.refused)
    SUPPRESSED.set(bounces.suppressed)
    SUSPENDED.set(bounces.is_suspended)
    PAUSED.labels("operator").set(state.paused)
    PAUSED.labels("restore").set(not state.delivery_known)
    _set_breaker(state.breaker)
    # All labels, to reset those that have no rows any more.
    for name in EmailState:
        EMAILS.labels(name).set(state.emails.get(name, 0))
    for outcome in Outcome:
        ATTEMPTS.labels(outcome).set(state.attempts.get(outcome, 0))


def _set_breaker(breaker: Breaker | None) -> None:
    BREAKER.set(breaker.trips if breaker else 0)
    BREAKER_SINCE.set(breaker.since.timestamp() if breaker and breaker.since else 0)
    NEXT_PROBE.set(breaker.until.timestamp() if breaker and breaker.until else 0)
    BREAKER_INFO.clear()
    if breaker:
        BREAKER_INFO.labels(breaker.phase or "", breaker.host or "", breaker.status).set(1)


_STATE = text(f"""
    select cursor.position as cursor, cursor.head, cursor.rebuild_reason, cursor.rebuild_kind, cursor.rebuilt_at,
        (select count(*) from inbox where parked_at is not null) as parked,
        greatest((
            select extract(epoch from clock_timestamp() - least(
                (select min(next_attempt_at) from emails where state = 'scheduled'),
                (select min(lease_until) from emails where state = 'sending')
            ))::float8
        ), 0) as oldest_due,
        (
            select count(*) from (
                select from emails where state = 'scheduled' and reason = 'rate-limited' limit :most
            ) as held
        ) as held_back,
        coalesce(gate.incarnation = {database_identity_sql("gate")}, true) as delivery_known,
        gate.paused_at is not null as paused
    from feed_cursor as cursor, gate
""")  # noqa: S608 - built from constants

_BREAKER = text("""
    select breaker_trips, breaker_since, breaker_until, breaker_phase, breaker_host, breaker_code, breaker_reason
    from gate
""")

_DEFERRED = text(f"""
    select count(*), coalesce(max(counted_tries), 0), (
        select concat_ws(' ', phase || ':', code, reply) from email_tries
        where email_id = (select id from emails where state = 'scheduled' and {DEFERRED} order by id limit 1)
        order by id desc limit 1
    )
    from (select counted_tries from emails where state = 'scheduled' and {DEFERRED} limit :most) as deferred
""")  # noqa: S608 - built from constants

_EMAILS = text("""
    select state, (
        select count(*) from (
            select from emails where emails.state = each.state and finished_at is not null limit :most
        ) as counted
    )
    from unnest(cast(:finished as text[])) as each(state)
    union all
    select 'scheduled', count(*) from (select from emails where state = 'scheduled' limit :most) as counted
    union all
    select 'sending', count(*) from (select from emails where state = 'sending' limit :most) as counted
""")

# UUIDv7 ids are in the order of time. A subquery makes the bound once, so that PostgreSQL can use the index.
_ATTEMPTS = text(
    "select outcome, count(*) from email_tries where id > (select uuidv7(interval '-1 hour')) group by outcome"
)
