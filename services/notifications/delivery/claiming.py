"""Claim due emails under one lease, within the recipients' limits, and render them.

The number of statements does not depend on the number of emails.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import ARRAY, Text, Uuid, case, column, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.attempts import defer_unrenderable
from services.notifications.delivery.circuit_breaker import SendingState, begin_probe, read_sending_state
from services.notifications.delivery.leases import LEASE, ClaimedEmail
from services.notifications.delivery.message_selection import (
    EmailBatch,
    load_sections,
    select_messages,
    split_email,
)
from services.notifications.delivery.muting import find_muted
from services.notifications.delivery.recipient_limits import load_allowances, support_quota_key
from services.notifications.delivery.recipients import Recipient, find_recipient
from services.notifications.delivery.rendering import RenderedEmail, render_email
from services.notifications.delivery.reply_addresses import keep_reply_addresses
from services.notifications.delivery.suppression import find_suppressed
from services.notifications.delivery.timing import Timing, find_wait, is_digest, load_timings
from services.notifications.delivery.transitions import cancel_emails, move_emails
from services.notifications.event_log.append import append_events
from services.notifications.mail.addresses import AddressError
from services.notifications.mail.message import Section
from services.notifications.models import Email, EmailMessage, Person
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import EmailSettings
from shared.database.orm import any_of
from shared.database.transactions import transaction_driver
from shared.notifications_feed import LoggedType
from shared.process.failpoints import failpoint
from shared.time_zones import known_zone

BATCH = 100  # emails claimed at once

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DueEmail:
    """A due email with its current recipient, its messages and the Message-ID of the email before it."""

    row: Email
    recipient: Recipient
    batch: EmailBatch
    people: Mapping[str, Person]
    previous_id: str | None
    sections: Mapping[UUID, Section]  # of a digest
    wait: tuple[datetime, Reason] | None  # for a time that its admin has chosen


@dataclass(slots=True)
class ClaimPlan:
    """What to do with each due email. Those to claim are in `rendered`, too."""

    claimed: list[DueEmail] = field(default_factory=list)
    rendered: dict[UUID, RenderedEmail] = field(default_factory=dict)
    read: list[UUID] = field(default_factory=list)
    deleted: list[UUID] = field(default_factory=list)
    suppressed: dict[Reason, list[UUID]] = field(default_factory=dict)
    oversized: list[DueEmail] = field(default_factory=list)
    unrenderable: list[tuple[Email, BaseException]] = field(default_factory=list)
    postponed: list[dict[str, Any]] = field(default_factory=list)
    newly_limited: list[UUID] = field(default_factory=list)


async def claim_emails(
    session: AsyncSession, settings: EmailSettings, *, overdue: float = 0
) -> list[ClaimedEmail] | None:
    """Claim due emails under one lease, and render them. None if none is due.

    Cancels emails that are no longer needed, suppresses those that may not be sent, and defers those whose address has
    reached its limit. So after an empty list there may be more.
    """
    state = await read_sending_state(session)
    probes = state.control.breaker_trips > 0
    if probes and state.may_send:
        state = await read_sending_state(session, lock=True)
        probes = state.control.breaker_trips > 0
    if not state.may_send:
        return None
    rows = await session.scalars(
        select(Email)
        .where(Email.state == EmailState.SCHEDULED, Email.next_attempt_at <= state.now - timedelta(seconds=overdue))
        # An open breaker is probed by one email. Emails that were not refused go first: a refused one may itself be
        # the cause.
        .order_by(*([Email.refused_at.asc().nulls_first()] if probes else []), Email.next_attempt_at, Email.id)
        .limit(1 if probes else BATCH)
        .with_for_update(skip_locked=True)
    )
    due = await _read_due(session, rows.all(), state.now, settings)
    if not due:
        return None
    plan, lease_id = await _plan(session, due, state, settings), uuid4()
    claimed = await _apply(session, plan, lease_id, state.now, settings)
    if probes and claimed:
        await begin_probe(session, lease_id, state.now + LEASE)
    return claimed


async def _read_due(
    session: AsyncSession, rows: Sequence[Email], now: datetime, settings: EmailSettings
) -> list[DueEmail]:
    if not rows:
        return []
    batches = await select_messages(session, rows)
    user_ids = {email.recipient_id for email in rows}
    user_ids |= {message.sender_id for batch in batches.values() for message in batch.messages}
    people = await _load_people(session, user_ids)
    previous_ids = await _read_previous_ids(session, [email.id for email in rows])
    recipients = await _find_recipients(session, rows, batches, people, settings)
    timings = await load_timings(session, {email.recipient_id for email in rows if email.audience == Audience.ADMIN})
    sections = await load_sections(session, rows)
    return [
        DueEmail(
            email,
            recipients[email.id],
            batches[email.id],
            people,
            previous_ids.get(email.id),
            sections,
            _find_wait(email, timings.get(email.recipient_id), people.get(email.recipient_id), now, settings),
        )
        for email in rows
    ]


async def _load_people(session: AsyncSession, ids: Collection[str]) -> dict[str, Person]:
    """Return the people with these ids: for a merged id the person to whom it belongs now."""
    found = {person.id: person for person in await session.scalars(select(Person).where(any_of(Person.id, ids)))}
    merged = {person.id: person.merged_into for person in found.values() if person.merged_into is not None}
    if not merged:
        return found
    persons = await _load_people(session, set(merged.values()))
    return found | {old_id: persons[into] for old_id, into in merged.items() if into in persons}


def _find_wait(
    email: Email, timing: Timing | None, admin: Person | None, now: datetime, settings: EmailSettings
) -> tuple[datetime, Reason] | None:
    if timing is None or email.audience != Audience.ADMIN:
        return None
    zone = known_zone([admin.zoneinfo if admin is not None else None, settings.time_zone])
    return find_wait(timing, zone, now, email.created_at, digest=is_digest(email))


async def _find_recipients(
    session: AsyncSession,
    rows: Sequence[Email],
    batches: Mapping[UUID, EmailBatch],
    people: Mapping[str, Person],
    settings: EmailSettings,
) -> dict[UUID, Recipient]:
    found = {email.id: _find_recipient(email, batches[email.id], people, settings) for email in rows}
    muted = await find_muted(session, rows)
    to_people = {email.id: found[email.id].mailbox for email in rows if email.audience != Audience.SUPPORT}
    suppressed = await find_suppressed(session, {mailbox for mailbox in to_people.values() if mailbox})
    for email_id, mailbox in to_people.items():
        if email_id in muted:
            found[email_id] = Recipient(reason=Reason.MUTED)
        elif mailbox in suppressed:
            found[email_id] = Recipient(reason=Reason.BOUNCED_ADDRESS)
    return found


def _find_recipient(
    email: Email, batch: EmailBatch, people: Mapping[str, Person], settings: EmailSettings
) -> Recipient:
    audience = Audience(email.audience)
    recipient = find_recipient(audience, people.get(email.recipient_id), settings)
    if audience is not Audience.SUPPORT or recipient.mailbox is None or not batch.messages:
        return recipient
    # Not the customer's address, which they can change. An email to support holds one customer's messages only.
    return replace(recipient, mailbox=support_quota_key(recipient.mailbox, batch.messages[0].sender_id))


async def _read_previous_ids(session: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return, by email, the Message-ID of the last email about the same conversation to the same recipient, if any.

    For an email that was claimed before, it is the last one before that: its headers stay the same.
    """
    driver = await transaction_driver(session)
    return {row["id"]: row["message_id"] for row in await driver.fetch(_PREVIOUS_IDS, ids)}


_PREVIOUS_IDS = """
    select distinct on (this.id) this.id, other.message_id
    from emails as this join emails as other using (conversation_id, recipient_id, audience)
    where this.id = any($1::uuid[]) and other.id <> this.id and other.message_id is not null
        and (this.message_id is null or other.claimed_at < this.claimed_at)
    order by this.id, other.claimed_at desc
"""


async def _plan(
    session: AsyncSession, due: Sequence[DueEmail], state: SendingState, settings: EmailSettings
) -> ClaimPlan:
    mailboxes = {email.recipient.mailbox for email in due if email.recipient.mailbox}
    allowances = await load_allowances(session, mailboxes, state.now, settings)
    plan = ClaimPlan()
    for email in due:
        mailbox, email_id = email.recipient.mailbox, email.row.id
        if email.wait is not None and email.batch.messages:
            until, reason = email.wait
            plan.postponed.append({"id": email_id, "next_attempt_at": until, "reason": reason})
            continue
        available_at = allowances.available_at(mailbox)
        if available_at is not None:
            values = {"id": email_id, "next_attempt_at": available_at, "reason": Reason.RATE_LIMITED}
            plan.postponed.append(values)
            if email.row.reason is None:
                plan.newly_limited.append(email_id)
            log.info("email held back, recipient limit reached", email_id=str(email_id))
        elif _plan_email(plan, email, state, settings):
            allowances.use(mailbox)
    return plan


def _plan_email(plan: ClaimPlan, due: DueEmail, state: SendingState, settings: EmailSettings) -> bool:
    """Plan what to do with an email whose recipient is within the limits; return True when it is claimed."""
    email, reason = due.row, due.recipient.reason
    if not due.batch.messages:
        # A deletion also clears the subject. It may have come while the email was being sent.
        (plan.read if email.subject is not None else plan.deleted).append(email.id)
        return False
    if reason is None:
        try:
            unsubscribe_key = state.control.leave_key
            rendered = render_email(
                email, due.batch, due.people, due.previous_id, state.now, settings, unsubscribe_key, due.sections
            )
        except AddressError:
            reason = Reason.ADDRESS_NOT_SUPPORTED
        except BaseException as error:  # an email that cannot be rendered must not block the others
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # from a Rust library
                raise
            plan.unrenderable.append((email, error))
            return False
        else:
            plan.rendered[email.id] = rendered
            if due.batch.more and not is_digest(email):
                plan.oversized.append(due)
    if reason is not None:
        plan.suppressed.setdefault(reason, []).append(email.id)
        return False
    plan.claimed.append(due)
    return True


async def _apply(
    session: AsyncSession, plan: ClaimPlan, lease_id: UUID, now: datetime, settings: EmailSettings
) -> list[ClaimedEmail]:
    for ids, reason in ((plan.read, Reason.READ), (plan.deleted, Reason.DELETED)):
        if ids:
            await cancel_emails(session, any_of(Email.id, ids), reason)
    for reason, ids in plan.suppressed.items():
        which = any_of(Email.id, ids)
        await move_emails(session, which, EmailState.SUPPRESSED, {"reason": reason}, leaving=(EmailState.SCHEDULED,))
    if plan.postponed:
        await session.execute(update(Email), plan.postponed)
        await append_events(session, LoggedType.EMAIL_UPDATED, plan.newly_limited)
    for email, error in plan.unrenderable:
        await defer_unrenderable(session, email, error, settings)
    if not plan.claimed:
        return []
    await _fix_messages(session, plan, now)
    await _lease(session, plan, lease_id, now)
    await keep_reply_addresses(session, plan.rendered)
    failpoint("claim-written")
    return [_claimed(due, plan.rendered[due.row.id], lease_id) for due in plan.claimed]


async def _fix_messages(session: AsyncSession, plan: ClaimPlan, now: datetime) -> None:
    """Move messages over the size limit to a new email and mark the ones left out."""
    for due in plan.oversized:
        await split_email(session, due.row, due.batch.messages[-1], now)
    included = [message.message_id for due in plan.claimed for message in due.batch.messages]
    await session.execute(
        update(EmailMessage)
        .where(
            any_of(EmailMessage.email_id, plan.rendered),
            EmailMessage.left_out.is_(False),
            ~any_of(EmailMessage.message_id, included),
        )
        .values(left_out=True)
        .execution_options(synchronize_session=False)
    )


async def _lease(session: AsyncSession, plan: ClaimPlan, lease_id: UUID, now: datetime) -> None:
    """Give the claimed emails the lease, and save what all their attempts have in common."""
    rendered = _table(
        {"id": Uuid, "mailbox": Text, "message_id": Text, "to_address": Text},
        [
            (due.row.id, due.recipient.mailbox, email.message_id, email.to_address)
            for due in plan.claimed
            for email in [plan.rendered[due.row.id]]
        ],
    )
    values = {"lease_id": lease_id, "lease_until": now + LEASE}
    values |= {"claimed_at": case((Email.message_id.is_(None), now), else_=Email.claimed_at)}
    values |= {name: rendered.c[name] for name in ("mailbox", "message_id", "to_address")}
    await move_emails(session, Email.id == rendered.c.id, EmailState.SENDING, values, leaving=(EmailState.SCHEDULED,))


def _table(columns: Mapping[str, Any], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a table of values for a statement; the statement is the same for any number of rows."""
    arrays = (
        literal(list(values), ARRAY(kind))
        for values, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)
    )
    typed = (column(name, kind) for name, kind in columns.items())
    return func.unnest(*arrays).table_valued(*typed, name="rendered").render_derived()


def _claimed(due: DueEmail, rendered: RenderedEmail, lease_id: UUID) -> ClaimedEmail:
    email = due.row
    return ClaimedEmail(
        email.id,
        lease_id,
        rendered.envelope_from,
        rendered.to_address,
        rendered.content,
        email.counted_tries,
        email.uncertain_tries,
        email.refused_at,
        tuple(message.message_id for message in due.batch.messages),
    )
