"""`chats status`: the state of both services, and what an operator should look at."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.commands.operations import on_conversations, on_notifications
from services.conversations.emails import progress
from services.conversations.event_log import reader, retention, sequencer
from services.conversations.messaging import erasure_batches, expiry
from services.conversations.reports import facts
from services.conversations.search import indexer
from services.conversations.settings import StoreSettings as ConversationsSettings
from services.conversations.webhooks import housekeeping, log_reader
from services.notifications import metrics
from services.notifications.delivery import erasure as notifications_erasure
from services.notifications.delivery.bounces import BounceState
from services.notifications.delivery.bounces import read_state as read_bounces
from services.notifications.inbound.metrics import LATE, InboundCounts, read_counts
from services.notifications.rules import EmailState, Outcome
from shared.broker import reports as broker_reports
from shared.database.clock_skew import MAX_SKEW, read_skew
from shared.event_log.reading import lag_after
from shared.event_log.retention import oldest_age
from shared.settings import SettingsError, read_settings

LATE_ERASURE = 60.0  # seconds without progress
SENDERS_REFUSED = 3  # addresses whose servers refused our sender in an hour; fewer may have a policy of their own
DAY = 24 * 3600  # seconds

T = TypeVar("T")


class Finding(NamedTuple):
    """A line of the status, with a remark. A remark is a fault unless `is_fault` is false."""

    line: str
    remark: str | None
    is_fault: bool = True


class Conversations(NamedTuple):
    """What is shown of the conversations database. `kept` is the age of its log in days.

    `due` counts the conversations that are to be deleted because they were closed long ago, up to 10,000.
    """

    log: sequencer.LogState
    kept: float
    publishers: Sequence[broker_reports.Report]
    erasure: erasure_batches.State
    due: int
    search: indexer.State
    reports: facts.State
    emails: progress.State
    webhooks: housekeeping.State
    skew: float


class Notifications(NamedTuple):
    """What is shown of the notifications database."""

    state: metrics.State
    inbound: InboundCounts
    bounces: BounceState
    consumers: Sequence[broker_reports.Report]
    erasure: notifications_erasure.State
    skew: float


def print_status() -> bool:
    """Print the status. Return True when nothing is late, stopped or parked."""
    conversations = _read(on_conversations, _read_conversations)
    notifications = _read(on_notifications, _read_notifications)
    findings: list[Finding] = []
    for name, database in (("conversations", conversations), ("notifications", notifications)):
        if isinstance(database, SettingsError):
            findings.append(Finding(f"database      {name}: unavailable", str(database)))
    if isinstance(conversations, Conversations):
        findings += _of_conversations(conversations)
        if isinstance(notifications, Notifications):
            findings += [_inbox(conversations, notifications), _clocks(conversations.skew, notifications.skew)]
    if isinstance(notifications, Notifications):
        findings += _of_notifications(notifications)
    for finding in findings:
        typer.echo(finding.line + (f"   <- {finding.remark}" if finding.remark else ""))
    return not any(finding.remark and finding.is_fault for finding in findings)


def _read(
    run: Callable[[Callable[[AsyncSession], Awaitable[T]]], T], read: Callable[[AsyncSession], Awaitable[T]]
) -> T | SettingsError:
    try:
        return run(read)
    except SettingsError as error:  # the other database is shown all the same
        return error


async def _read_conversations(session: AsyncSession) -> Conversations:
    return Conversations(
        await sequencer.read_state(session),
        await oldest_age(session) / DAY,
        await broker_reports.read_reports(session),
        await erasure_batches.read_state(session),
        await _count_due(session),
        await indexer.read_state(session),
        await facts.read_state(session),
        await progress.read_state(session),
        await housekeeping.read_state(session),
        await read_skew(session),
    )


async def _count_due(session: AsyncSession) -> int:
    days = read_settings(ConversationsSettings).closed_retention_days
    return 0 if days is None else await expiry.count_due(session, days)


async def _read_notifications(session: AsyncSession) -> Notifications:
    return Notifications(
        await metrics.read_state(session),
        await read_counts(session),
        await read_bounces(session),
        await broker_reports.read_reports(session),
        await notifications_erasure.read_state(session),
        await read_skew(session),
    )


def _of_conversations(read: Conversations) -> list[Finding]:
    log, days = read.log, read_settings(ConversationsSettings).retention_days
    return [
        Finding(
            f"log           head {log.head}, {log.unnumbered} unnumbered, oldest waits {log.lag:.1f} s",
            "the relay is late: is it running?" if log.lag > sequencer.LATE else None,
        ),
        *_broker_findings("publisher", "relay", read.publishers),
        Finding(
            f"retention     {read.kept:.1f} days of the log are kept",
            f"longer than CHATS_RETENTION_DAYS ({days:g}), because a reader is behind"
            if read.kept > days + retention.LATE_PURGE
            else None,
        ),
        _erasure("conversations", read.erasure, "jobs process"),
        _closed(read.due),
        _search(read.search),
        _reports(read.reports),
        _email_status(read.emails),
        _webhooks(read.webhooks),
    ]


def _inbox(conversations: Conversations, notifications: Notifications) -> Finding:
    cursor = notifications.state.cursor
    age = on_conversations(lambda session: lag_after(session, cursor))
    return Finding(
        f"inbox         position {cursor}, {conversations.log.head - cursor} behind the log, oldest waits {age:.1f} s",
        "the sweeper is late: is it running?" if age > reader.LATE else None,
    )


def _of_notifications(read: Notifications) -> list[Finding]:
    state = read.state
    emails = ", ".join(f"{count} {name}" for name, count in sorted(state.emails.items())) or "none"
    return [
        *_broker_findings("consumer", "worker", read.consumers),
        _rebuild(state),
        _erasure("notifications", read.erasure, "sweeper"),
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
            "emails are late" if state.oldest_due > metrics.LATE else None,
        ),
        Finding(
            f"sending       {'paused' if state.paused else 'on' if state.delivery_known else 'on hold'}",
            "resume with `chats emails resume`"
            if state.paused
            else None
            if state.delivery_known
            else "the database was restored or replaced: the sweeper must read the log first",
        ),
        Finding(
            f"inbound       {read.inbound.waiting} waiting for {read.inbound.oldest:.1f} s, {read.inbound.held} held",
            "replies by email are not posted: is `chats inbound` running?" if read.inbound.oldest > LATE else None,
        ),
        _bounces(read.bounces),
        _deferred(state),
        _breaker(state.breaker),
    ]


def _bounces(state: BounceState) -> Finding:
    line = f"bounces       at {state.bounced} addresses in the last hour, {state.suppressed} suppressed"
    if state.is_suspended:
        return Finding(line, "more than 5 % of the emails: no address is suppressed until the cause is found")
    if not state.refused:
        return Finding(line, None)
    remark = f"{state.refused} refused our sender: `chats doctor mail`, then `chats emails retry --state bounced`"
    return Finding(line, remark, is_fault=state.refused >= SENDERS_REFUSED)


def _deferred(state: metrics.State) -> Finding:
    """Return how many emails wait for another attempt. This is a fault if the server accepts none at all."""
    deferred = state.deferred
    line = f"deferred      {deferred.count}"
    if not deferred.count:
        return Finding(line, None)
    reply = state.deferred_reply
    if state.attempts.get(Outcome.ACCEPTED):
        return Finding(line, f"waiting for another attempt; oldest: {reply}", is_fault=False)
    return Finding(line, f"no email was accepted in the last hour; oldest: {reply}", is_fault=state.is_standstill)


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


def _closed(due: int) -> Finding:
    days = read_settings(ConversationsSettings).closed_retention_days
    if days is None:
        return Finding("closed        conversations are kept", None)
    line = f"closed        {_left(due)} conversations due to be deleted after {days:g} days"
    return Finding(line, "`chats conversations expiring` lists them" if due else None, is_fault=False)


def _search(state: indexer.State) -> Finding:
    line = f"search        oldest message waits {state.lag:.1f} s, {state.parked} conversations parked"
    if state.is_filling:
        line += f"; indexing all conversations: {state.filled} conversations done, {_left(state.left)} to go"
    if state.lag > indexer.LATE:
        return Finding(line, "new messages may not be found: is the jobs process running?")
    if state.parked:
        return Finding(line, f"these are not found: {state.reason}; see the log of the jobs process")
    return Finding(line, None)


def _reports(state: facts.State) -> Finding:
    line = f"reports       oldest event waits {state.lag:.1f} s to be counted"
    if state.is_filling:
        line += f"; first count: {state.filled} conversations done, {_left(state.left)} to go"
    late = "reports lack the newest numbers: is the jobs process running?"
    return Finding(line, late if state.lag > facts.LATE else None)


def _left(count: int) -> str:
    return f"{count}{'+' if count == indexer.COUNT_LIMIT else ''}"


def _email_status(state: progress.State) -> Finding:
    line = f"email status  read up to position {state.position}"
    if state.listing is not None:
        line += f", listing all emails: {state.listing}"
    if state.lag > progress.LATE:
        remark = f"not read for {state.lag:.0f} s: can the jobs process read the notifications API? `chats doctor feed`"
        return Finding(line, remark)
    return Finding(line, None)


def _webhooks(state: housekeeping.State) -> Finding:
    line = (
        f"webhooks      {state.webhooks} enabled, {_left(state.pending)} deliveries pending, oldest due"
        f" {state.waits:.0f} s, {_left(state.failed)} failed in a day"
    )
    if state.lag > log_reader.LATE:
        return Finding(line, f"an event has waited {state.lag:.0f} s for its deliveries: is the jobs process running?")
    if state.disabled:
        remark = f"{state.disabled} disabled because the endpoint fails or is gone: `chats webhooks list`"
        return Finding(line, remark)
    if state.failing:
        return Finding(line, f"{state.failing} fail: `chats webhooks list`", is_fault=False)
    return Finding(line, None)


def _clocks(conversations: float, notifications: float) -> Finding:
    apart = {"conversations": conversations, "notifications": notifications}
    offsets = ", ".join(f"{name} {round(-seconds, 1) + 0:+.1f} s" for name, seconds in apart.items())
    is_fault = max(map(abs, (*apart.values(), conversations - notifications))) > MAX_SKEW
    return Finding(
        f"clocks        databases relative to this machine: {offsets}",
        f"more than {MAX_SKEW:g} s apart, which rejects tokens and delays emails: synchronize them"
        if is_fault
        else None,
    )
