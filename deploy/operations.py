"""What operators see and do from the command line, straight on the services' databases."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.catalog.ndjson_import import import_lines
from services.conversations.event_log import retention
from services.conversations.event_log.reader import lag_after, read_newest
from services.conversations.event_log.sequencer import read_state, rotate_epoch
from services.conversations.messaging import erasure_batches
from services.conversations.settings import StoreSettings as ConversationsSettings
from services.notifications import metrics
from services.notifications.delivery import erasure as mail_erasing
from services.notifications.event_consumer import parked, rebuild
from services.notifications.event_consumer.parked import list_parked
from services.notifications.mail.replies import without_addresses
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import MailSettings
from services.notifications.settings import StoreSettings as NotificationsSettings
from shared import broker_reports
from shared.clocks import APART, read_ahead
from shared.database import SessionFactory, create_engine, create_sessions, transaction
from shared.outages import DATABASE_ERRORS, describe
from shared.problems import Problem
from shared.settings import SettingsError, read_settings
from shared.text import printable

T = TypeVar("T")

LATE_NUMBERING = 10.0  # seconds
LATE_CATCH_UP = 60.0  # seconds that an event waits for the sweeper
LATE_ERASING = 60.0  # seconds without any progress
LATE_MAIL = 60.0  # seconds behind its time
STANDSTILL = 3  # emails that wait for another attempt while none is accepted
LATE_PURGE = 0.5  # days beyond the retention
DAY = 24 * 3600  # seconds
MAX_WARNINGS = 100  # that an import prints
PIECE = 64 * 1024  # bytes that are read of a file at once


def run_once(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in one transaction; what goes wrong is one line and exit code 1."""

    async def once(sessions: SessionFactory) -> T:
        async with transaction(sessions) as session:
            return await work(session)

    return run_on(url, once)


def run_on(url: str, work: Callable[[SessionFactory], Awaitable[T]]) -> T:
    """Do some work in transactions of its own; what goes wrong is one line and exit code 1."""

    async def main() -> T:
        engine = create_engine(url, application="chats-cli", pool_size=1)
        try:
            return await work(create_sessions(engine))
        finally:
            await engine.dispose()

    try:
        return asyncio.run(main())
    except Problem as problem:
        raise SettingsError(problem.detail) from None
    except DATABASE_ERRORS as error:
        raise SettingsError(describe(error)) from None


def on_conversations(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in the conversations database."""
    return run_once(read_settings(ConversationsSettings).conversations_database_url, work)


def on_notifications(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in the notifications database."""
    return run_once(read_settings(NotificationsSettings).notifications_database_url, work)


def parse_id(value: str) -> UUID:
    """Read an id from the command line."""
    try:
        return UUID(value)
    except ValueError:
        raise SettingsError(f"{value!r} is not an id") from None


class Finding(NamedTuple):
    """A line of the status, and what there is to say about it."""

    line: str
    remark: str | None
    is_fault: bool = True


def print_status() -> bool:
    """Print how everything stands; True when nothing is late, stopped or given up on."""
    head = on_conversations(read_state)
    state = on_notifications(metrics.read_state)
    behind = head.head - state.cursor
    age = on_conversations(lambda session: lag_after(session, state.cursor))
    kept = on_conversations(retention.oldest_age) / DAY
    days = read_settings(ConversationsSettings).retention_days
    publishers = on_conversations(broker_reports.read_reports)
    consumers = on_notifications(broker_reports.read_reports)
    mails = ", ".join(f"{count} {name}" for name, count in sorted(state.emails.items())) or "none"
    findings = [
        Finding(
            f"log           head {head.head}, {head.unnumbered} not numbered, oldest {head.lag:.1f} s",
            "the relay is late: is it running?" if head.lag > LATE_NUMBERING else None,
        ),
        Finding(
            f"inbox         cursor {state.cursor}, {behind} behind the log, oldest {age:.1f} s",
            "the sweeper is late: is it running?" if age > LATE_CATCH_UP else None,
        ),
        *_broker_findings("publisher", "relay", publishers),
        *_broker_findings("consumer", "worker", consumers),
        Finding(
            f"kept          {kept:.1f} days of the log",
            f"longer than the {days:g} days of the retention, for a reader that is behind"
            if kept > days + LATE_PURGE
            else None,
        ),
        _rebuild(state),
        _clocks(),
        _erasing("conversations", on_conversations(erasure_batches.read_state), "relay"),
        _erasing("notifications", on_notifications(mail_erasing.read_state), "sweeper"),
        Finding(f"parked        {state.parked}", "look at `chats events parked`" if state.parked else None),
        Finding(
            f"mail          {mails}",
            "look at `chats emails list --state failed`" if state.emails.get(EmailState.FAILED) else None,
            is_fault=False,  # a mailbox that does not exist is no fault of this system
        ),
        Finding(
            f"held back     {state.held_back}",
            "their addresses have had as many mails as CHATS_LIMIT_MAILS_PER_10_MINUTES and _PER_DAY let them"
            if state.held_back
            else None,
            is_fault=False,
        ),
        Finding(
            f"oldest due    {state.oldest_due:.1f} s",
            "mail is late" if state.oldest_due > LATE_MAIL else None,
        ),
        Finding(
            f"sending       {'paused' if state.paused else 'on' if state.mail_known else 'waits'}",
            "paused by hand: `chats emails resume`"
            if state.paused
            else None
            if state.mail_known
            else "the database is another one, maybe a restored one: the sweeper has to read the log first",
        ),
        _deferred(state),
        _breaker(state.breaker),
    ]
    for finding in findings:
        typer.echo(finding.line + (f"   <- {finding.remark}" if finding.remark else ""))
    return not any(finding.remark and finding.is_fault for finding in findings)


def _deferred(state: metrics.State) -> Finding:
    """Say how many emails wait for another attempt; a fault when the server accepts nothing at all."""
    deferred = state.deferred
    line = f"deferred      {deferred.count}"
    if not deferred.count:
        return Finding(line, None)
    reply = without_addresses(deferred.last_reply or "no reply is known")
    if state.tries.get(Outcome.ACCEPTED):
        return Finding(line, f"they wait for another attempt; the oldest: {reply}", is_fault=False)
    standstill = deferred.most_tries > 1 or deferred.count >= STANDSTILL
    return Finding(line, f"no email was accepted within the last hour; the oldest: {reply}", is_fault=standstill)


def _breaker(breaker: metrics.Breaker | None) -> Finding:
    if breaker is None:
        return Finding("mail set-up   good", None)
    since = f"{breaker.since:%Y-%m-%d %H:%M:%S} UTC" if breaker.since else "an earlier version"
    probe = f"{breaker.until:%Y-%m-%d %H:%M:%S} UTC" if breaker.until else "now"
    return Finding(
        f"mail set-up   {'good, the server is busy' if breaker.is_busy else 'at fault'}, breaker open since {since}",
        f"{breaker.trips} times in a row; phase {breaker.phase}, host {breaker.host}, reply {breaker.reply};"
        f" next probe {probe}",
    )


def _broker_findings(role: str, process: str, reports: Sequence[broker_reports.Report]) -> list[Finding]:
    """Say how each process that uses the broker stands with it. Without it everything goes on, only slower."""
    present = [report for report in reports if report.age < broker_reports.FRESH]
    if not present:
        remark = f"no {process} has reported for {broker_reports.FRESH:g} s: is it running?"
        if reports and reports[0].detail:
            remark += f" The last one said: {reports[0].detail}"
        return [Finding(f"{role:<14}none", remark)]
    return [
        Finding(f"{role:<14}{report.process}, broker usable", None)
        if report.reason is None
        else Finding(
            f"{role:<14}{report.process}, broker unusable since {report.since:%Y-%m-%d %H:%M:%S} ({report.reason})",
            report.detail,
        )
        for report in sorted(present)
    ]


def _rebuild(state: metrics.State) -> Finding:
    if state.rebuild_kind is not None:
        return Finding(f"rebuild       under way, reading {state.rebuild_kind}", state.rebuild_reason)
    if state.rebuilt_at is not None:
        return Finding(f"rebuild       ended {state.rebuilt_at:%Y-%m-%d %H:%M}", state.rebuild_reason, is_fault=False)
    return Finding("rebuild       never needed", None)


def _erasing(service: str, state: erasure_batches.State | mail_erasing.State, by: str) -> Finding:
    if not state.under_way:
        return Finding(f"erasing       nothing, {service}", None)
    line = f"erasing       {state.under_way} under way, {state.erased} rows so far, {service}"
    rests = f"nothing was erased for {state.resting:.0f} s: is the {by} running?"
    return Finding(line, rests if state.resting > LATE_ERASING else None)


def _clocks() -> Finding:
    apart = {"conversations": on_conversations(read_ahead), "notifications": on_notifications(read_ahead)}
    seen = ", ".join(f"{name} {round(-seconds, 1) + 0:+.1f} s" for name, seconds in apart.items())
    wrong = max(map(abs, (*apart.values(), apart["conversations"] - apart["notifications"]))) > APART
    return Finding(
        f"clocks        of the databases, against this machine's: {seen}",
        f"more than {APART:g} s apart, synchronize them: tokens are refused, and emails late" if wrong else None,
    )


def print_events(limit: int) -> None:
    """Print the newest events, without any text of people."""
    for row in reversed(on_conversations(lambda session: read_newest(session, limit))):
        typer.echo(
            f"{row.position if row.position is not None else '-':>10}  {row.occurred_at:%Y-%m-%d %H:%M:%S.%f}  "
            f"{row.type:<22} {row.id}  conversation {row.conversation_id or '-'}"
        )


def print_parked() -> None:
    """Print the events that were given up on."""
    parked = on_notifications(list_parked)
    for entry in parked:
        said = f"{entry.event_id}  {entry.parked_at:%Y-%m-%d %H:%M:%S}  {entry.type:<32} {entry.reason}"
        typer.echo(printable(said))
    if not parked:
        typer.echo("No event was given up on.")


def retry_parked(event_id: UUID) -> None:
    """Handle a parked event now."""
    settings = read_settings(MailSettings)
    run_once(settings.notifications_database_url, lambda session: parked.retry_parked(session, event_id, settings))


def import_lines_of(name: str) -> bool:
    """Take over the users and orders in a file, `-` for the standard input; print what was refused and a summary.

    True when nothing was refused.
    """
    url = read_settings(ConversationsSettings).conversations_database_url
    counts: Counter[int] = Counter()
    warnings = 0

    async def work(sessions: SessionFactory) -> None:
        nonlocal warnings
        with _opened(name) as file:
            async for answer in import_lines(_pieces(file), sessions, room=math.inf):
                counts[answer["status"]] += answer.get("lines_omitted", 1)
                told = warnings
                warnings += len(answer.get("warnings", ()))
                for said in _said_of(answer, MAX_WARNINGS - told):
                    typer.echo(printable(f"line {answer['line']}, {answer.get('id', 'no id')}: {said}"), err=True)

    run_on(url, work)
    if warnings > MAX_WARNINGS:
        typer.echo(f"There are {warnings - MAX_WARNINGS} more warnings.", err=True)
    refused = counts.total() - counts[HTTPStatus.CREATED] - counts[HTTPStatus.OK]
    typer.echo(f"{counts[HTTPStatus.CREATED]} new, {counts[HTTPStatus.OK]} were there, {refused} refused.")
    return not refused


def _said_of(answer: Mapping[str, Any], most: int) -> Iterator[str]:
    """Say why a line was refused, or in at most so many warnings what of it was not used as it was sent."""
    if "code" in answer:
        yield answer["detail"]
    for warning in answer.get("warnings", ())[: max(0, most)]:
        yield f"warning: {'.'.join(map(str, warning['loc'][1:]))}: {warning['msg']}"


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise SettingsError(printable(f"cannot read {name}: {error.strerror}")) from None


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def declare_restored(service: str) -> str:
    """Tell a service that its database was restored from a backup; return what follows from it."""
    if service == "conversations":
        on_conversations(rotate_epoch)
        return "The log begins a new epoch: every reader makes itself agree with the present state."
    if service == "notifications":
        on_notifications(rebuild.hold_emails)
        return "Mail waits until the log was read again; what may have been sent is failed then, as `restored`."
    raise SettingsError("a service is conversations or notifications")
