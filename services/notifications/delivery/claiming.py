"""Claiming due mail: who gets how much now, composed where it has to be, under one lease.

However many mails a claim looks at, it reads with as many statements as for one, and writes with as many.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import ARRAY, LargeBinary, Text, Uuid, column, func, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, undefer

from services.notifications.delivery.attempts import defer_unrenderable
from services.notifications.delivery.circuit_breaker import begin_probe, read_sending_state
from services.notifications.delivery.leases import LEASE, ClaimedEmail
from services.notifications.delivery.message_selection import EmailBatch, select_messages, split_email
from services.notifications.delivery.recipient_limits import customers_share, load_allowances
from services.notifications.delivery.recipients import Recipient, find_recipient
from services.notifications.delivery.rendering import RenderedEmail, render_email
from services.notifications.delivery.transitions import cancel_emails, move_emails
from services.notifications.mail.addresses import AddressError
from services.notifications.models import Email, EmailMessage, Person
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import MailSettings
from shared.failpoints import failpoint
from shared.tables import any_of

BATCH = 100  # mails claimed at once

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DueEmail:
    """A due mail with all that is known of it: whom it goes to at present, its messages, what was sent before it."""

    row: Email
    to: Recipient
    portion: EmailBatch
    people: Mapping[str, Person]
    earlier: str | None


@dataclass(slots=True)
class ClaimPlan:
    """What is to become of due mails; `letters` are those of mails that are taken for the first time, or anew."""

    taken: list[DueEmail] = field(default_factory=list)
    emails: dict[UUID, RenderedEmail] = field(default_factory=dict)
    read: list[UUID] = field(default_factory=list)
    deleted: list[UUID] = field(default_factory=list)
    suppressed: dict[Reason, list[UUID]] = field(default_factory=dict)
    too_much: list[DueEmail] = field(default_factory=list)
    broken: list[tuple[Email, BaseException]] = field(default_factory=list)
    later: list[dict[str, Any]] = field(default_factory=list)


async def claim_emails(
    session: AsyncSession, settings: MailSettings, *, overdue: float = 0
) -> list[ClaimedEmail] | None:
    """Claim due emails under one lease, and render those that are claimed for the first time. None if none is due.

    Cancels emails that are no longer needed, suppresses those that may not be sent, and defers those whose address has
    reached its limit. So after an empty list there may be more.
    """
    gate = await read_sending_state(session)
    probes = gate.row.breaker_trips > 0
    if probes and gate.open:
        gate = await read_sending_state(session, lock=True)
        probes = gate.row.breaker_trips > 0
    if not gate.open:
        return None
    found = await session.scalars(
        select(Email)
        .options(undefer(Email.content))
        .where(Email.state == EmailState.SCHEDULED, Email.next_attempt_at <= gate.now - timedelta(seconds=overdue))
        # After the breaker opened, one mail finds out whether the set-up works again: first one that was not refused,
        # because what was refused may be so for its own sake.
        .order_by(*([Email.refused_at.asc().nulls_first()] if probes else []), Email.next_attempt_at, Email.id)
        .limit(1 if probes else BATCH)
        .with_for_update(skip_locked=True)
    )
    due = await _read_due(session, found.all(), settings)
    if not due:
        return None
    plan, lease_id = await _plan(session, due, gate.now, settings), uuid4()
    claimed = await _apply(session, plan, lease_id, gate.now, settings)
    if probes and claimed:
        await begin_probe(session, lease_id, gate.now + LEASE)
    return claimed


async def _read_due(session: AsyncSession, rows: Sequence[Email], settings: MailSettings) -> list[DueEmail]:
    if not rows:
        return []
    portions = await select_messages(session, rows)
    named = {email.recipient_id for email in rows}
    named |= {one.sender_id for portion in portions.values() for one in portion.messages}
    people = {person.id: person for person in await session.scalars(select(Person).where(any_of(Person.id, named)))}
    earlier = await _read_earlier(session, [email.id for email in rows])
    return [
        DueEmail(
            email,
            _find_recipient(email, portions[email.id], people, settings),
            portions[email.id],
            people,
            earlier.get(email.id),
        )
        for email in rows
    ]


def _find_recipient(
    email: Email, portion: EmailBatch, people: Mapping[str, Person], settings: MailSettings
) -> Recipient:
    audience = Audience(email.audience)
    found = find_recipient(audience, people.get(email.recipient_id), settings)
    if audience is Audience.CUSTOMER or found.mailbox is None or not portion.messages:
        return found
    # The id, not the address, which a customer can change: a mail to support holds one customer's messages only.
    return replace(found, mailbox=customers_share(found.mailbox, portion.messages[0].sender_id))


async def _read_earlier(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the Message-ID of the last mail about the same conversation to the same recipient, where there is one."""
    this, other = aliased(Email), aliased(Email)
    rows = await session.execute(
        select(this.id, other.message_id)
        .join(
            other,
            (other.conversation_id == this.conversation_id)
            & (other.recipient_id == this.recipient_id)
            & (other.audience == this.audience)
            & (other.id != this.id),
        )
        .where(any_of(this.id, ids), other.message_id.is_not(None))
        .order_by(this.id, other.claimed_at.desc())
        .ext(distinct_on(this.id))
    )
    return {row.id: row.message_id for row in rows}


async def _plan(session: AsyncSession, due: Sequence[DueEmail], now: datetime, settings: MailSettings) -> ClaimPlan:
    allowances = await load_allowances(session, {one.to.mailbox for one in due if one.to.mailbox}, now, settings)
    plan = ClaimPlan()
    for one in due:
        opens_at = allowances.opens_at(one.to.mailbox)
        if opens_at is not None:
            plan.later.append({"id": one.row.id, "next_attempt_at": opens_at, "reason": Reason.RATE_LIMITED})
            log.info("email held back, its address has had as many as it may", email_id=str(one.row.id))
        elif _plan_email(plan, one, now, settings):
            allowances.use(one.to.mailbox)
    return plan


def _plan_email(plan: ClaimPlan, due: DueEmail, now: datetime, settings: MailSettings) -> bool:
    """Say what is to become of a mail that its address has allowances for; True when it is taken."""
    email, reason = due.row, due.to.reason
    if not due.portion.messages:
        # A deletion takes the subject with it; it may have come while the mail was on its way.
        (plan.read if email.subject is not None else plan.deleted).append(email.id)
        return False
    # It has no bytes yet, or they are addressed to where its recipient no longer is.
    if reason is None and (email.content is None or due.to.address != email.to_address):
        try:
            letter = render_email(email, due.portion.messages, due.people, due.earlier, now, settings)
        except AddressError:
            reason = Reason.ADDRESS_NOT_SUPPORTED
        except BaseException as error:  # one mail that cannot be composed must not hold up all others
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
                raise
            plan.broken.append((email, error))
            return False
        else:
            plan.emails[email.id] = letter
            if due.portion.more:
                plan.too_much.append(due)
    if reason is not None:
        plan.suppressed.setdefault(reason, []).append(email.id)
        return False
    plan.taken.append(due)
    return True


async def _apply(
    session: AsyncSession, plan: ClaimPlan, lease_id: UUID, now: datetime, settings: MailSettings
) -> list[ClaimedEmail]:
    for ids, why in ((plan.read, Reason.READ), (plan.deleted, Reason.DELETED)):
        if ids:
            await cancel_emails(session, any_of(Email.id, ids), why)
    for reason, ids in plan.suppressed.items():
        which = any_of(Email.id, ids)
        await move_emails(session, which, EmailState.SUPPRESSED, {"reason": reason}, leaving=(EmailState.SCHEDULED,))
    if plan.later:
        await session.execute(update(Email), plan.later)
    for email, error in plan.broken:
        await defer_unrenderable(session, email, error, settings)
    if not plan.taken:
        return []
    if plan.emails:
        await _close(session, plan, now)
    await _lease(session, plan, lease_id, now)
    failpoint("claim-written")
    return [_claimed(one.row, plan.emails.get(one.row.id), lease_id) for one in plan.taken]


async def _close(session: AsyncSession, plan: ClaimPlan, now: datetime) -> None:
    """Put what mails cannot hold into others, and note what of theirs their letters do not tell."""
    for one in plan.too_much:
        await split_email(session, one.row, one.portion.messages[-1].number, now)
    told = [row.message_id for one in plan.taken if one.row.id in plan.emails for row in one.portion.messages]
    await session.execute(
        update(EmailMessage)
        .where(any_of(EmailMessage.email_id, plan.emails), ~any_of(EmailMessage.message_id, told))
        .values(left_out=True)
        .execution_options(synchronize_session=False)
    )


async def _lease(session: AsyncSession, plan: ClaimPlan, lease_id: UUID, now: datetime) -> None:
    """Take the mails that are taken, with their letters."""
    values = {"lease_id": lease_id, "lease_until": now + LEASE}
    again = [one for one in plan.taken if one.row.id not in plan.emails]
    for one in again:
        sent_to = values | {"mailbox": one.to.mailbox}
        await move_emails(session, Email.id == one.row.id, EmailState.SENDING, sent_to, leaving=(EmailState.SCHEDULED,))
    first = [one for one in plan.taken if one.row.id in plan.emails]
    if first:
        letters = _table(
            {"id": Uuid, "mailbox": Text, "message_id": Text, "to_address": Text, "content": LargeBinary},
            [(one.row.id, one.to.mailbox, *astuple(plan.emails[one.row.id])) for one in first],
        )
        told = {name: letters.c[name] for name in ("mailbox", "message_id", "to_address", "content")}
        which = Email.id == letters.c.id
        values |= {"claimed_at": now} | told
        await move_emails(session, which, EmailState.SENDING, values, leaving=(EmailState.SCHEDULED,))


def _table(columns: Mapping[str, Any], rows: Iterable[Sequence[Any]]) -> Any:
    """Make a table of values that a statement reads; the statement is the same for any number of rows."""
    arrays = (
        literal(list(each), ARRAY(kind)) for each, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)
    )
    named = (column(name, kind) for name, kind in columns.items())
    return func.unnest(*arrays).table_valued(*named, name="letters").render_derived()


def _claimed(email: Email, letter: RenderedEmail | None, lease_id: UUID) -> ClaimedEmail:
    to_address, content = (letter.to_address, letter.content) if letter else (email.to_address, email.content)
    assert to_address is not None and content is not None  # noqa: S101, PT018 - a claimed mail has both
    return ClaimedEmail(
        email.id, lease_id, to_address, content, email.counted_tries, email.uncertain_tries, email.refused_at
    )
