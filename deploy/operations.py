"""What operators see and do from the command line, directly on the services' databases."""

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
from services.notifications.delivery import erasure as notifications_erasure
from services.notifications.event_consumer import parked, rebuild
from services.notifications.event_consumer.parked import list_parked
from services.notifications.mail.replies import without_addresses
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import EmailSettings
from services.notifications.settings import StoreSettings as NotificationsSettings
from shared import broker_reports
from shared.clock_skew import MAX_SKEW, read_skew
from shared.database import SessionFactory, create_engine, create_sessions, transaction
from shared.database_errors import DATABASE_ERRORS, describe
from shared.problems import Problem
from shared.settings import SettingsError, read_settings
from shared.text import printable

T = TypeVar("T")

LATE_NUMBERING = 10.0  # seconds
LATE_CATCH_UP = 60.0  # seconds that an event waits for the sweeper
LATE_ERASURE = 60.0  # seconds without progress
LATE_EMAIL = 60.0  # seconds overdue
STANDSTILL = 3  # emails that wait for another attempt while none is accepted
LATE_PURGE = 0.5  # days beyond the retention period
DAY = 24 * 3600  # seconds
MAX_WARNINGS = 100  # printed by an import
CHUNK = 64 * 1024  # bytes read from a file at once


def run_once(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in one transaction. Known errors become `SettingsError`, one line for the operator."""

    async def once(sessions: SessionFactory) -> T:
        async with transaction(sessions) as session:
            return await work(session)

    return run_on(url, once)


def run_on(url: str, work: Callable[[SessionFactory], Awaitable[T]]) -> T:
    """Do some work that opens its own transactions. Known errors become `SettingsError`."""

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
        raise SettingsError(f"{value!r} is not a valid id") from None


class Finding(NamedTuple):
    """A line of the status, with a remark. A remark is a fault unless `is_fault` is false."""

    line: str
    remark: str | None
    is_fault: bool = True


def print_status() -> bool:
    """Print the status. Return True when nothing is late, stopped or parked."""
    head = on_conversations(read_state)
    state = on_notifications(metrics.read_state)
    behind = head.head - state.cursor
    age = on_conversations(lambda session: lag_after(session, state.cursor))
    kept = on_conversations(retention.oldest_age) / DAY
    days = read_settings(ConversationsSettings).retention_days
    publishers = on_conversations(broker_reports.read_reports)
    consumers = on_notifications(broker_reports.read_reports)
    emails = ", ".join(f"{count} {name}" for name, count in sorted(state.emails.items())) or "none"
    findings = [
        Finding(
            f"log           head {head.head}, {head.unnumbered} unnumbered, oldest waits {head.lag:.1f} s",
            "the relay is late: is it running?" if head.lag > LATE_NUMBERING else None,
        ),
        Finding(
            f"inbox         position {state.cursor}, {behind} behind the log, oldest waits {age:.1f} s",
            "the sweeper is late: is it running?" if age > LATE_CATCH_UP else None,
        ),
        *_broker_findings("publisher", "relay", publishers),
        *_broker_findings("consumer", "worker", consumers),
        Finding(
            f"retention     {kept:.1f} days of the log are kept",
            f"longer than CHATS_RETENTION_DAYS ({days:g}), because a reader is behind"
            if kept > days + LATE_PURGE
            else None,
        ),
        _rebuild(state),
        _clocks(),
        _erasure("conversations", on_conversations(erasure_batches.read_state), "relay"),
        _erasure("notifications", on_notifications(notifications_erasure.read_state), "sweeper"),
        Finding(f"parked        {state.parked}", "see `chats events parked`" if state.parked else None),
        Finding(
            f"emails        {emails}",
            "see `chats emails list --state failed`" if state.emails.get(EmailState.FAILED) else None,
            is_fault=False,  # a mailbox that does not exist is not this system's fault
        ),
        Finding(
            f"held back     {state.held_back}",
            "recipient limits reached (CHATS_LIMIT_MAILS_*)" if state.held_back else None,
            is_fault=False,
        ),
        Finding(
            f"oldest due    {state.oldest_due:.1f} s",
            "emails are late" if state.oldest_due > LATE_EMAIL else None,
        ),
        Finding(
            f"sending       {'paused' if state.paused else 'on' if state.delivery_known else 'on hold'}",
            "resume with `chats emails resume`"
            if state.paused
            else None
            if state.delivery_known
            else "the database was restored or replaced: the sweeper must read the log first",
        ),
        _deferred(state),
        _breaker(state.breaker),
    ]
    for finding in findings:
        typer.echo(finding.line + (f"   <- {finding.remark}" if finding.remark else ""))
    return not any(finding.remark and finding.is_fault for finding in findings)


def _deferred(state: metrics.State) -> Finding:
    """Return how many emails wait for another attempt. This is a fault if the server accepts none at all."""
    deferred = state.deferred
    line = f"deferred      {deferred.count}"
    if not deferred.count:
        return Finding(line, None)
    reply = without_addresses(deferred.last_reply or "no reply")
    if state.attempts.get(Outcome.ACCEPTED):
        return Finding(line, f"waiting for another attempt; oldest: {reply}", is_fault=False)
    standstill = deferred.max_attempts > 1 or deferred.count >= STANDSTILL
    return Finding(line, f"no email was accepted in the last hour; oldest: {reply}", is_fault=standstill)


def _breaker(breaker: metrics.Breaker | None) -> Finding:
    if breaker is None:
        return Finding("mail server   ok", None)
    since = f"{breaker.since:%Y-%m-%d %H:%M:%S} UTC" if breaker.since else "an earlier version"
    probe = f"{breaker.until:%Y-%m-%d %H:%M:%S} UTC" if breaker.until else "now"
    return Finding(
        f"mail server   {'busy' if breaker.is_busy else 'failing'}, circuit breaker open since {since}",
        f"{breaker.trips} times in a row; phase {breaker.phase}, host {breaker.host}, reply {breaker.reply};"
        f" next probe {probe}",
    )


def _broker_findings(role: str, process: str, reports: Sequence[broker_reports.Report]) -> list[Finding]:
    """Return the broker's state as each process reported it. Without the broker everything works, only slower."""
    present = [report for report in reports if report.age < broker_reports.FRESH]
    if not present:
        remark = f"no {process} has reported for {broker_reports.FRESH:g} s: is it running?"
        if reports and reports[0].detail:
            remark += f" Its last report: {reports[0].detail}"
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
        return Finding(f"rebuild       running, reading {state.rebuild_kind}", state.rebuild_reason)
    if state.rebuilt_at is not None:
        return Finding(f"rebuild       ended {state.rebuilt_at:%Y-%m-%d %H:%M}", state.rebuild_reason, is_fault=False)
    return Finding("rebuild       never needed", None)


def _erasure(service: str, state: erasure_batches.State | notifications_erasure.State, process: str) -> Finding:
    if not state.under_way:
        return Finding(f"erasure       {service}: nothing to do", None)
    line = f"erasure       {service}: {state.under_way} running, {state.erased} rows erased so far"
    remark = f"no progress for {state.stalled_seconds:.0f} s: is the {process} running?"
    return Finding(line, remark if state.stalled_seconds > LATE_ERASURE else None)


def _clocks() -> Finding:
    apart = {"conversations": on_conversations(read_skew), "notifications": on_notifications(read_skew)}
    offsets = ", ".join(f"{name} {round(-seconds, 1) + 0:+.1f} s" for name, seconds in apart.items())
    is_fault = max(map(abs, (*apart.values(), apart["conversations"] - apart["notifications"]))) > MAX_SKEW
    return Finding(
        f"clocks        databases relative to this machine: {offsets}",
        f"more than {MAX_SKEW:g} s apart, which rejects tokens and delays emails: synchronize them"
        if is_fault
        else None,
    )


def print_events(limit: int) -> None:
    """Print the newest events, without any text that people wrote."""
    for row in reversed(on_conversations(lambda session: read_newest(session, limit))):
        typer.echo(
            f"{row.position if row.position is not None else '-':>10}  {row.occurred_at:%Y-%m-%d %H:%M:%S.%f}  "
            f"{row.type:<22} {row.id}  conversation {row.conversation_id or '-'}"
        )


def print_parked() -> None:
    """Print the parked events."""
    parked = on_notifications(list_parked)
    for entry in parked:
        line = f"{entry.event_id}  {entry.parked_at:%Y-%m-%d %H:%M:%S}  {entry.type:<32} {entry.reason}"
        typer.echo(printable(line))
    if not parked:
        typer.echo("No parked events.")


def retry_parked(event_id: UUID) -> None:
    """Handle a parked event now."""
    settings = read_settings(EmailSettings)
    run_once(settings.notifications_database_url, lambda session: parked.retry_parked(session, event_id, settings))


def import_users_and_orders(name: str) -> bool:
    """Import the users and orders in a file, `-` for standard input. Print rejected lines, warnings and a summary.

    Return True when no line was rejected.
    """
    url = read_settings(ConversationsSettings).conversations_database_url
    counts: Counter[int] = Counter()
    warnings = 0

    async def work(sessions: SessionFactory) -> None:
        nonlocal warnings
        with _open(name) as file:
            async for result in import_lines(_chunks(file), sessions, detail_budget=math.inf):
                counts[result["status"]] += result.get("lines_omitted", 1)
                printed = warnings
                warnings += len(result.get("warnings", ()))
                for remark in _remarks(result, MAX_WARNINGS - printed):
                    typer.echo(printable(f"line {result['line']}, {result.get('id', 'no id')}: {remark}"), err=True)

    run_on(url, work)
    if warnings > MAX_WARNINGS:
        typer.echo(f"{warnings - MAX_WARNINGS} more warnings.", err=True)
    rejected = counts.total() - counts[HTTPStatus.CREATED] - counts[HTTPStatus.OK]
    typer.echo(f"{counts[HTTPStatus.CREATED]} created, {counts[HTTPStatus.OK]} already existed, {rejected} rejected.")
    return not rejected


def _remarks(result: Mapping[str, Any], max_warnings: int) -> Iterator[str]:
    """Yield why a line was rejected, or its warnings: fields that were left out or replaced."""
    if "code" in result:
        yield result["detail"]
    for warning in result.get("warnings", ())[: max(0, max_warnings)]:
        yield f"warning: {'.'.join(map(str, warning['loc'][1:]))}: {warning['msg']}"


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise SettingsError(printable(f"cannot read {name}: {error.strerror}")) from None


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def declare_restored(service: str) -> str:
    """Mark a service's database as restored from a backup. Return what happens next, for the operator."""
    if service == "conversations":
        on_conversations(rotate_epoch)
        return "The event log starts a new epoch. Its readers synchronize with the current state."
    if service == "notifications":
        on_notifications(rebuild.hold_emails)
        return (
            "Emails wait until the log has been read again. Those that may have been sent become failed (`restored`)."
        )
    raise SettingsError("the service must be conversations or notifications")
