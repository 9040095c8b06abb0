"""How many mails an address may get: counted from what it got, in the transaction that claims more for it.

Two customers with the same address share its caps. At the support inbox each customer has the caps for themselves, so
that one cannot use up another's. What counts is an attempt after which the recipient may have the mail; a refused or
deferred one makes room again for itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.rules import Cap, mail_caps, wait_for_room
from services.notifications.settings import MailSettings


def customers_share(mailbox: str, customer_id: str) -> str:
    """Return what mails about a customer are counted by at the support inbox: the customer's share of its mailbox.

    No mailbox contains a space, so no share is another address.
    """
    return f"{mailbox} {customer_id}"


@dataclass(slots=True)
class Received:
    """What an address has got: the times of the newest, the last first, and how many are on their way."""

    times: Sequence[datetime] = ()
    in_hand: int = 0


@dataclass(slots=True)
class Allowance:
    """What may still be claimed for each address, at a moment."""

    caps: Sequence[Cap]
    now: datetime
    received: Mapping[str | None, Received] = field(default_factory=dict)

    def opens_at(self, mailbox: str | None) -> datetime | None:
        """Return when an address may get one more mail, or None when it may now."""
        received = self.received.get(mailbox)
        if received is None:
            return None
        ages = [(self.now - moment).total_seconds() for moment in received.times]
        wait = wait_for_room(self.caps, ages, received.in_hand)
        return self.now + timedelta(seconds=wait) if wait else None

    def use(self, mailbox: str | None) -> None:
        """Note that one more was claimed."""
        if (received := self.received.get(mailbox)) is not None:
            received.in_hand += 1


async def load_allowances(
    session: AsyncSession, mailboxes: Collection[str], now: datetime, settings: MailSettings
) -> Allowance:
    """Count what addresses have got, and let nobody else claim mail for them until this transaction ends."""
    caps = mail_caps(settings.limit_mails_per_10_minutes, settings.limit_mails_per_day)
    if not caps or not mailboxes:
        return Allowance(caps, now)
    # In one order, so that two never wait for each other. A statement of its own: the count must see what those did
    # who were waited for.
    each = {"mailboxes": sorted(mailboxes)}
    await session.execute(_LOCK, each)
    since = now - timedelta(seconds=max(cap.seconds for cap in caps))
    rows = await session.execute(_COUNT, each | {"since": since, "most": max(cap.most for cap in caps)})
    return Allowance(caps, now, {row.mailbox: Received(row.times, row.in_hand) for row in rows})


_LOCK = text("""
    select pg_advisory_xact_lock(hashtextextended('mail to ' || mailbox, 0))
    from unnest(cast(:mailboxes as text[])) as each(mailbox)
""")

# By what each column is indexed for: none of both reads more rows than it counts.
_COUNT = text("""
    select mailbox,
        (select count(*) from emails where state = 'sending' and emails.mailbox = each.mailbox) as in_hand,
        array(
            select finished_at from email_tries
            where email_tries.mailbox = each.mailbox and finished_at > :since
            order by finished_at desc limit :most
        ) as times
    from unnest(cast(:mailboxes as text[])) as each(mailbox)
""")
