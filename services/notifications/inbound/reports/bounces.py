"""Take in what mail servers report about an email of ours, at its envelope sender `bounce+TOKEN@domain` or `abuse@`.

Nothing that arrives there ever becomes a message: not a report, and not what a program answers by itself. There is no
row for a report: what follows from it is committed before its sender's server gets an answer. The report is not kept,
because it holds a copy of our email.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.bounces import record_bounce
from services.notifications.inbound.loops import automatic_reason, sender_mailbox
from services.notifications.inbound.reports.bounce_rules import judge
from services.notifications.inbound.reports.complaints import find_complained, is_complaint, is_feedback, unsubscribe
from services.notifications.inbound.reports.delivery_reports import Action, DeliveryReport, read_report
from services.notifications.inbound.reports.report_parts import read_parts
from shared.database.engine import Driver
from shared.process.failpoints import failpoint

VALID_DAYS: Final = 30  # after the last attempt; mail servers give up after five to seven

REPORTS = Counter("chats_inbound_reports_total", "Reports about our emails, by what they changed", ["effect"])

Transact = Callable[[], AbstractAsyncContextManager[AsyncSession]]
"""Begins a transaction, and commits it at the end."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reported:
    """The email of ours whose envelope sender an address is, and where it went, if that was not erased.

    `expired`: reports about it have no effect any more.
    """

    email_id: UUID
    address: str | None
    expired: bool


async def find_reported(connection: Driver, email_id: UUID) -> Reported | None:
    """Return the email that has an envelope sender; None if it does not exist, or was never given to a mail server."""
    row = await connection.fetchrow(_FIND, email_id, VALID_DAYS)
    return Reported(email_id, row["to_address"], row["expired"]) if row is not None else None


async def take_report(transact: Transact, reported: Reported, envelope_from: str | None, content: bytes) -> bool:
    """Take a report in; return False for an email that may be from a person, who must know that nobody reads it.

    Errors of the database are the caller's: the report must then be delivered again.
    """
    headers, parts = read_parts(content)
    reason = automatic_reason(headers, envelope_from, sender_mailbox(headers))
    if reason is None:
        return False
    report = read_report(headers, parts, reported.address)
    if report is not None:
        effect = await _apply(transact, reported, report)
    elif is_feedback(headers, parts) and is_complaint(parts):
        effect = await _unsubscribe(transact, reported.email_id)
    else:
        effect = "unreadable"
    REPORTS.labels(effect).inc()
    log.info("report taken in", email_id=str(reported.email_id), effect=effect, kind=reason)
    return True


async def take_complaint(transact: Transact, secret: str, content: bytes) -> bool:
    """Take in what arrives at `abuse@domain`; return False for what is no complaint, or not about an email of ours."""
    headers, parts = read_parts(content)
    if not is_feedback(headers, parts):
        return False
    email_id = find_complained(secret, parts) if is_complaint(parts) else None
    effect = await _unsubscribe(transact, email_id) if email_id is not None else "unreadable"
    REPORTS.labels(effect).inc()
    log.info("complaint taken in", email_id=str(email_id), effect=effect)
    return True


async def _unsubscribe(transact: Transact, email_id: UUID) -> str:
    async with transact() as session:
        return "unsubscribed" if await unsubscribe(session, email_id) else "nothing"


async def _apply(transact: Transact, reported: Reported, report: DeliveryReport) -> str:
    if report.action is not Action.FAILED:
        return report.action
    verdict = judge(report, reported.address)
    async with transact() as session:
        effect = await record_bounce(session, reported.email_id, verdict, report.diagnostic, report.host)
    failpoint("bounce-committed")
    log.info("email bounced", email_id=str(reported.email_id), status=verdict.status, reason=verdict.reason)
    return effect


_FIND: Final = """
select to_address, greatest(claimed_at, finished_at) < clock_timestamp() - make_interval(days => $2) as expired
from emails where id = $1 and claimed_at is not null
"""
