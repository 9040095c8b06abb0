"""When an admin wants emails: not in their quiet hours, or once a day in a digest.

An email is due as without these. A sender that claims it asks here whether it has to wait, each time anew: so a changed
wish, another time zone or an hour in which no process ran need no further care. Times are local, and every local time
happens once a day: one that the clocks skip is as much later as they skip, one that they repeat is its first time.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from uuid import UUID, uuid5

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import Bell, Email
from services.notifications.rules import WAITS_FOR_ADMIN, Audience, EmailState, Reason
from shared.database.orm import any_of

_DIGESTS: Final = UUID("5f0e8c86-4d0f-4d6c-9a53-6a3c1f7c2b11")  # the namespace of the digests' ids
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours without emails, from `start` up to `end`, of the next day if that is earlier."""

    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Timing:
    """When an admin wants emails. With `digest_at` they come once a day, in one email, at that time."""

    quiet: QuietHours | None = None
    digest_at: time | None = None


ANY_TIME: Final = Timing()


def digest_of(admin_id: str) -> UUID:
    """Return what an admin's digests have instead of the id of a conversation."""
    return uuid5(_DIGESTS, admin_id)


def is_digest(email: Email) -> bool:
    """Return whether an email is a digest: about several conversations."""
    return email.audience == Audience.ADMIN and email.conversation_id == digest_of(email.recipient_id)


def find_wait(
    timing: Timing, zone: tzinfo, now: datetime, begun_at: datetime, *, digest: bool
) -> tuple[datetime, Reason] | None:
    """Return until when an email to an admin waits, and why; None if it may be sent now.

    `begun_at` is when the email was created: a digest is for the next time of its hour after that, or later if no
    process was running then.
    """
    if digest and timing.digest_at is not None:
        sent_at = _next(timing.digest_at, zone, begun_at)
        if now < sent_at:
            return sent_at, Reason.DIGEST
    end = _end_of_quiet_hours(timing.quiet, zone, now) if timing.quiet is not None else None
    return (end, Reason.QUIET_HOURS) if end is not None else None


def _next(at: time, zone: tzinfo, after: datetime) -> datetime:
    """Return the first moment after another at which the clocks show a time."""
    first = after.astimezone(zone).date() - _DAY
    return next(moment for days in range(4) if (moment := _moment(first + days * _DAY, at, zone)) > after)


def _end_of_quiet_hours(quiet: QuietHours, zone: tzinfo, now: datetime) -> datetime | None:
    today = now.astimezone(zone).date()
    for day in (today - _DAY, today):
        start = _moment(day, quiet.start, zone)
        end = _moment(day if quiet.start < quiet.end else day + _DAY, quiet.end, zone)
        if start <= now < end:
            return end
    return None


def _moment(day: date, at: time, zone: tzinfo) -> datetime:
    return datetime.combine(day, at, zone).astimezone(UTC)


async def load_timing(session: AsyncSession, admin_id: str) -> Timing:
    """Return when an admin wants emails."""
    return (await load_timings(session, [admin_id])).get(admin_id, ANY_TIME)


async def load_timings(session: AsyncSession, admin_ids: Collection[str]) -> dict[str, Timing]:
    """Return when admins want emails, of those who have said so."""
    if not admin_ids:
        return {}
    said = or_(Bell.quiet_start.is_not(None), Bell.digest_at.is_not(None))
    columns = (Bell.admin_id, Bell.quiet_start, Bell.quiet_end, Bell.digest_at)
    rows = await session.execute(select(*columns).where(any_of(Bell.admin_id, admin_ids), said))
    return {
        admin_id: Timing(QuietHours(start, end) if start is not None and end is not None else None, digest_at)
        for admin_id, start, end, digest_at in rows
    }


async def lock_bells(session: AsyncSession, admin_ids: Collection[str]) -> None:
    """Lock the preferences of admins with a digest, so that each has at most one that is open."""
    query = select(Bell.admin_id).where(any_of(Bell.admin_id, admin_ids)).order_by(Bell.admin_id)
    await session.execute(query.with_for_update(key_share=True))


async def decide_again(session: AsyncSession, admin_ids: Collection[str]) -> None:
    """Make emails due that wait for the times of these users: the sender that claims them decides again."""
    # The second condition is that of an index.
    waiting = (Email.state == EmailState.SCHEDULED) & Email.reason.is_not(None) & Email.reason.in_(WAITS_FOR_ADMIN)
    await session.execute(
        update(Email)
        .where(waiting, any_of(Email.recipient_id, admin_ids))
        .values(next_attempt_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
