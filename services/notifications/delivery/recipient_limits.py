"""How many emails an address may get: counted from recorded attempts, in the transaction that claims more.

Two customers with the same address share its limits. For the support inbox each customer has limits of their own. Only
attempts after which the recipient may have the email count; rejected and deferred ones don't.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.rules import EmailLimit, email_limits, seconds_until_allowed
from services.notifications.settings import EmailSettings


def support_quota_key(mailbox: str, customer_id: str) -> str:
    """Return the key that counts a customer's emails to the support inbox.

    Mailboxes contain no space, so the key is never another address.
    """
    return f"{mailbox} {customer_id}"


@dataclass(slots=True)
class MailboxUsage:
    """When a mailbox got its last emails, newest first, and how many are being sent to it."""

    times: Sequence[datetime] = ()
    in_flight: int = 0


@dataclass(slots=True)
class Allowance:
    """How many emails may be claimed for each mailbox now."""

    limits: Sequence[EmailLimit]
    now: datetime
    usage: Mapping[str | None, MailboxUsage] = field(default_factory=dict)

    def available_at(self, mailbox: str | None) -> datetime | None:
        """Return when a mailbox may get another email; None if it may get one now."""
        usage = self.usage.get(mailbox)
        if usage is None:
            return None
        ages = [(self.now - time).total_seconds() for time in usage.times]
        wait = seconds_until_allowed(self.limits, ages, usage.in_flight)
        return self.now + timedelta(seconds=wait) if wait else None

    def use(self, mailbox: str | None) -> None:
        """Count one more claimed email."""
        if (usage := self.usage.get(mailbox)) is not None:
            usage.in_flight += 1


async def load_allowances(
    session: AsyncSession, mailboxes: Collection[str], now: datetime, settings: EmailSettings
) -> Allowance:
    """Count the emails that mailboxes got, and lock the mailboxes against other claims until the transaction ends."""
    limits = email_limits(settings.limit_mails_per_10_minutes, settings.limit_mails_per_day)
    if not limits or not mailboxes:
        return Allowance(limits, now)
    # Sorted, so that two transactions never deadlock. The lock is a statement of its own, so that the count sees what
    # the previous holder committed.
    values: dict[str, Any] = {"mailboxes": sorted(mailboxes)}
    await session.execute(_LOCK, values)
    since = now - timedelta(seconds=max(limit.seconds for limit in limits))
    values |= {"since": since, "most": max(limit.max_emails for limit in limits)}
    usage = {row.mailbox: MailboxUsage(row.times, row.in_flight) for row in await session.execute(_COUNT, values)}
    return Allowance(limits, now, usage)


_LOCK = text("""
    select pg_advisory_xact_lock(hashtextextended('mail to ' || mailbox, 0))
    from unnest(cast(:mailboxes as text[])) as each(mailbox)
""")

# Both subqueries have an index and read no more rows than they count.
_COUNT = text("""
    select mailbox,
        (select count(*) from emails where state = 'sending' and emails.mailbox = each.mailbox) as in_flight,
        array(
            select finished_at from email_tries
            where email_tries.mailbox = each.mailbox and finished_at > :since
            order by finished_at desc limit :most
        ) as times
    from unnest(cast(:mailboxes as text[])) as each(mailbox)
""")
