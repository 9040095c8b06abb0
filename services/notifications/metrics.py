"""What the tables say about the service's state: for Prometheus and for `chats status`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import Gauge
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.mail.replies import enhanced_status, says_busy, without_addresses
from services.notifications.models import DEFERRED
from services.notifications.rules import EmailState, Outcome
from shared.database import SessionFactory, database_identity_sql, transaction

CURSOR = Gauge("chats_inbox_cursor", "Position up to which the log was caught up with")
LAG = Gauge("chats_inbox_lag_events", "Events of the log behind that position, when it was last read")
REBUILDING = Gauge("chats_inbox_rebuilding", "1 while the present state is read, because the place in the log was lost")
PARKED = Gauge("chats_inbox_parked", "Events that were given up on")
EMAILS = Gauge("chats_emails", "Mails by state; it counts no further than 10,000", ["state"])
HELD_BACK = Gauge(
    "chats_emails_held_back", "Mails whose address has had as many as it may; it counts no further than 10,000"
)
OLDEST_DUE = Gauge("chats_emails_oldest_due_seconds", "Age of the oldest due mail that was not sent yet")
TRIES = Gauge("chats_email_tries", "Tries of the last hour by outcome", ["outcome"])
DEFERRED_EMAILS = Gauge(
    "chats_emails_deferred", "Emails that wait for another attempt; it counts no further than 10,000"
)
BREAKER = Gauge("chats_email_breaker_trips", "Times in a row that the mail set-up or the mail server was at fault")
BREAKER_SINCE = Gauge("chats_email_breaker_since_timestamp_seconds", "When the breaker opened; 0 when it is closed")
NEXT_PROBE = Gauge("chats_email_breaker_next_probe_timestamp_seconds", "When an open breaker is probed; 0 when closed")
# By code and status alone: the words of a reply may quote an address.
BREAKER_INFO = Gauge(
    "chats_email_breaker_info", "1 while the breaker is open: where the dialogue stopped", ["phase", "host", "reply"]
)


MOST = 10_000  # mails of one state that are counted: no scan that grows with the years


@dataclass(frozen=True, slots=True)
class Breaker:
    """An open breaker: since when, where the last attempt stopped and why, when the next one is."""

    trips: int
    since: datetime | None
    until: datetime | None
    phase: str | None
    host: str | None
    code: int | None
    reason: str | None

    @property
    def is_busy(self) -> bool:
        """Whether the server takes nothing at the moment; else the set-up is to be looked at."""
        return says_busy(self.phase, self.code)

    @property
    def reply(self) -> str:
        """The mail server's reply, or what went wrong, without the addresses that it quotes."""
        return without_addresses(f"{self.code or ''} {self.reason or ''}".strip())

    @property
    def status(self) -> str:
        """The reply's code and enhanced status code."""
        return f"{self.code or ''} {enhanced_status(self.reason or '') or ''}".strip()


@dataclass(frozen=True, slots=True)
class Deferred:
    """The emails that wait for another attempt: how many, most attempts of one, the last reply to the oldest."""

    count: int
    most_tries: int
    last_reply: str | None


@dataclass(frozen=True, slots=True)
class State:
    """How the service stands."""

    cursor: int
    head: int
    parked: int
    rebuild_reason: str | None
    rebuild_kind: str | None
    rebuilt_at: datetime | None
    oldest_due: float
    mail_known: bool
    paused: bool
    breaker: Breaker | None
    """None when it is closed."""
    deferred: Deferred
    held_back: int
    emails: dict[str, int]
    tries: dict[str, int]


async def read_state(session: AsyncSession) -> State:
    """Read how the service stands."""
    row = (await session.execute(_STATE, {"most": MOST})).one()
    breaker = Breaker(*(await session.execute(_BREAKER)).one())
    deferred = Deferred(*(await session.execute(_DEFERRED, {"most": MOST})).one())
    emails = (await session.execute(_EMAILS, {"states": list(EmailState), "most": MOST})).all()
    tries = (await session.execute(_TRIES)).all()
    return State(
        **row._mapping,  # noqa: SLF001 - its public name
        breaker=breaker if breaker.trips else None,
        deferred=deferred,
        emails=_counts(emails),
        tries=_counts(tries),
    )


def _counts(rows: Sequence[Row[*tuple[Any, ...]]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows if row[1]}


async def collect(sessions: SessionFactory) -> None:
    """Set the gauges."""
    async with transaction(sessions) as session:
        state = await read_state(session)
    CURSOR.set(state.cursor)
    LAG.set(state.head - state.cursor)
    REBUILDING.set(state.rebuild_kind is not None)
    PARKED.set(state.parked)
    HELD_BACK.set(state.held_back)
    OLDEST_DUE.set(state.oldest_due)
    DEFERRED_EMAILS.set(state.deferred.count)
    _measure_breaker(state.breaker)
    # Each, also those that there are none of any more.
    for name in EmailState:
        EMAILS.labels(name).set(state.emails.get(name, 0))
    for outcome in Outcome:
        TRIES.labels(outcome).set(state.tries.get(outcome, 0))


def _measure_breaker(breaker: Breaker | None) -> None:
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
                select from emails where state = 'scheduled' and reason is not null limit :most
            ) as held
        ) as held_back,
        coalesce(gate.incarnation = {database_identity_sql("gate")}, true) as mail_known,
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
    select state, (select count(*) from (select from emails where emails.state = each.state limit :most) as counted)
    from unnest(cast(:states as text[])) as each(state)
""")

# The ids are of version 7 and so in the order of time.
_TRIES = text("select outcome, count(*) from email_tries where id > uuidv7(interval '-1 hour') group by outcome")
