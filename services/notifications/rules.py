"""The states of an email and what follows each attempt to send it. Pure functions; times are in seconds."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

GIVE_UP_AFTER = 3 * 24 * 3600
RETRY_EVERY = 4 * 3600
MAX_JITTER = 0.1
MAX_UNCERTAIN_ATTEMPTS = 2
MAX_BOUNCED = 0.05  # of the emails of an hour; if more bounce, addresses are not suppressed
MIN_BOUNCES = 20  # bounced or sent emails, from which on this share is looked at
MAX_EVENT_ATTEMPTS = 5
FIRST_BREAKER_PAUSE = 15
FIRST_REFUSED_PAUSE = 2  # short: often it is one recipient's policy, and the next email is accepted
LONGEST_BREAKER_PAUSE = 300
LONGEST_BUSY_PAUSE = 60
REFUSED_DELAY = 30  # seconds in which other emails show whether the setup works
RECHECK_DELAY = 60  # seconds until an email is checked again that waits for emails being sent to its address


class Audience(StrEnum):
    """Whom an email is for."""

    CUSTOMER = "customer"
    SUPPORT = "support"
    ADMIN = "admin"


class NotificationType(StrEnum):
    """What a notification is about. All but the first are for admins."""

    NEW_MESSAGE = "NEW_MESSAGE"
    """An admin answered: for the customer."""
    MENTION = "MENTION"
    """Another admin's note mentions the recipient."""
    ASSIGNED = "ASSIGNED"
    """Another admin assigned the conversation to the recipient."""
    CONVERSATION_CREATED = "CONVERSATION_CREATED"
    """A customer opened a conversation: for all admins."""
    CUSTOMER_REPLIED = "CUSTOMER_REPLIED"
    """The customer wrote again: for the assignee, else for all admins."""


ACTS = frozenset({NotificationType.MENTION, NotificationType.ASSIGNED})
"""What one admin does for another: emails by default, and read only by the recipient."""


class EmailState(StrEnum):
    """The state of an email.

    `scheduled`: it waits for its time or its next attempt. `sending`: leased to one process. `sent`: a mail server
    accepted it. `failed`: not delivered, and not tried again. `cancelled`: no longer needed. `suppressed`: not sent,
    for a reason. `bounced`: accepted, and later reported as undeliverable.
    """

    SCHEDULED = "scheduled"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"
    BOUNCED = "bounced"
    """A mail server accepted it, and later it was reported that it did not arrive."""


class InboundState(StrEnum):
    """The state of an email that came in.

    `received`: it will be posted. `posted`: it became a message or a note. `held`: it waits for an admin's decision.
    `ignored`: it becomes nothing. `refused`: it could not be posted.
    """

    RECEIVED = "received"
    POSTED = "posted"
    HELD = "held"
    IGNORED = "ignored"
    REFUSED = "refused"


class InboundKind(StrEnum):
    """What an email that came in becomes. Nothing ever changes it: a note never becomes what a customer sees."""

    MESSAGE = "message"
    """The customer's message in a conversation."""
    CONVERSATION = "conversation"
    """A conversation that the customer opens."""
    ADMIN_MESSAGE = "admin-message"
    """An admin's answer to the customer."""
    NOTE = "note"
    """An admin's note for colleagues."""


class InboundReason(StrEnum):
    """Why an email that came in is held, ignored or refused, or what was left out of a posted one."""

    AUTOMATIC = "automatic"
    """A program answered: out of office, a ticket system, a mailing list."""
    DELIVERY_REPORT = "delivery-report"
    SYSTEM_SENDER = "system-sender"
    OTHER_SENDER = "other-sender"
    """It is not from the person that our email went to."""
    NOT_AUTHENTICATED = "not-authenticated"
    """Our mail server found that its sender's address is forged, or could not tell and must."""
    UNKNOWN_SENDER = "unknown-sender"
    """No customer has the address that a new conversation would come from."""
    AMBIGUOUS_SENDER = "ambiguous-sender"
    """Several people have the address that it is from."""
    UNCERTAIN_QUOTE = "uncertain-quote"
    """An admin's answer that may still contain what it quotes."""
    EXPIRED = "expired"
    TOO_MANY = "too-many"
    TOO_MANY_HELD = "too-many-held"
    """It would be held, but too many are held already. Its original is not kept."""
    EMPTY = "empty"
    NOT_ACCEPTED = "not-accepted"
    """The conversations service refused it, or failed at it, for too long."""
    NO_LONGER_ALLOWED = "no-longer-allowed"
    """Its sender was deleted, or is no customer any more."""
    CONVERSATION_DELETED = "conversation-deleted"
    FILES_LEFT_OUT = "files-left-out"
    """Posted without files that are too many or too large; they are in the original."""
    ERASED = "erased"
    """Its conversation or its sender was erased before it was posted."""
    DISCARDED = "discarded"
    LEFT = "left"
    """It asked for no more emails about the conversation; it never becomes a message."""


INBOUND_PER_HOUR = 20  # emails that become messages of a conversation by themselves
HELD_OF_SENDER = 20  # emails of an address that are held, of those that came in a day
HELD_OF_CONVERSATION = 100
HELD_OF_STRANGERS = 1_000  # emails that are held and belong to no conversation
HELD_BYTES = 2**30  # of the originals of those
IGNORED_KEPT_PER_HOUR = 20  # emails of a conversation that are ignored and keep their original
HEAD_WAITS = 15 * 60  # seconds that the others of a conversation wait for an email that cannot be posted


class Outcome(StrEnum):
    """How an attempt to send an email ended."""

    ACCEPTED = "accepted"
    """The server accepted the email."""
    REJECTED = "rejected"
    """The server will never accept this email: 5xx to RCPT or DATA."""
    DEFERRED = "deferred"
    """The server may accept the email later: 4xx to this email, or a disconnect before the final dot."""
    UNCERTAIN = "uncertain"
    """The server may have the email: a disconnect after the final dot, or a lease that expired with `data_at` set."""
    MISCONFIGURED = "misconfigured"
    """No email would have been accepted: the setup is wrong, or the server does not answer."""
    BUSY = "busy"
    """The server accepts nothing at the moment: 4xx or a disconnect before RCPT, or 421 at any time."""
    REFUSED = "refused"
    """The recipient or the content was refused, possibly because of the setup: 5.7.x, relaying, the sender."""
    ABANDONED = "abandoned"
    """Stopped before the final dot: the lease was lost, or the sending process was stopped."""
    BOUNCED = "bounced"
    """No attempt of ours: a mail server reported later that it could not deliver the email."""
    COMPLAINED = "complained"
    """No attempt of ours: the recipient's provider reported that they marked the email as unwanted."""


MAY_HAVE_ARRIVED = frozenset({Outcome.ACCEPTED, Outcome.UNCERTAIN})
"""Outcomes after which the recipient may have the email."""


class Reason(StrEnum):
    """Why an email was cancelled or suppressed, failed or bounced, or why a scheduled one waits."""

    READ = "read"
    DELETED = "deleted"
    USER_DELETED = "user-deleted"
    NO_ADDRESS = "no-address"
    NOT_AN_ADMIN = "not-an-admin"
    NO_SMTP = "no-smtp"
    RECIPIENT_NOT_ALLOWED = "recipient-not-allowed"
    OWN_ADDRESS = "own-address"
    """A customer's address is one of the system's own: an email to it would come back to us."""
    UNATTENDED_ADDRESS = "unattended-address"
    """Nobody reads emails to such an address, and machines reply to them."""
    MUTED = "muted"
    """The customer wants no emails, about this conversation or at all; an admin none about what was in it."""
    RATE_LIMITED = "rate-limited"
    """Of a scheduled email: its address has reached its email limit."""
    QUIET_HOURS = "quiet-hours"
    """Of a scheduled email: it waits for the end of an admin's quiet hours."""
    DIGEST = "digest"
    """Of a scheduled digest: it waits for the hour that its admin has chosen."""
    REJECTED = "rejected"
    ADDRESS_NOT_SUPPORTED = "address-not-supported"
    TOO_LARGE = "too-large"
    GAVE_UP = "gave-up"
    UNCERTAIN = "uncertain"
    RESTORED = "restored"
    BOUNCED_ADDRESS = "bounced-address"
    """An earlier email to this address was reported as undeliverable."""
    MAILBOX_UNKNOWN = "mailbox-unknown"
    DOMAIN_UNKNOWN = "domain-unknown"
    MAILBOX_DISABLED = "mailbox-disabled"
    MAILBOX_FULL = "mailbox-full"
    NOT_IN_TIME = "not-in-time"
    """A mail server between us and the recipient gave up after days."""
    SENDER_REFUSED = "sender-refused"
    """The recipient's server refused our sender or our set-up, not the recipient."""
    UNDELIVERABLE = "undeliverable"


WAITS_FOR_ADMIN = frozenset({Reason.QUIET_HOURS, Reason.DIGEST})
"""Why a scheduled email waits for a time that its admin has chosen."""

NO_SMTP_STOP = UUID(int=1)
"""The id of the reason for no emails that concerns all customers: there is no mail server."""

MAY_HAVE_ARRIVED_REASONS = frozenset({Reason.UNCERTAIN, Reason.RESTORED})
"""Emails that failed for these reasons may have arrived; they are only retried by their id."""


TRANSITIONS: dict[EmailState, frozenset[EmailState]] = {
    # To sent: a late reply to an attempt whose lease expired; without it the email would be sent again.
    # To failed: the database was restored from a backup, and the email may have been sent since.
    EmailState.SCHEDULED: frozenset(set(EmailState) - {EmailState.SCHEDULED}),
    # Back to scheduled: for another attempt, or after its lease expired.
    EmailState.SENDING: frozenset(set(EmailState) - {EmailState.SENDING}),
    # Retried by hand; cancelled because its messages were deleted; or it is reported that an uncertain one bounced.
    EmailState.FAILED: frozenset({EmailState.SCHEDULED, EmailState.CANCELLED, EmailState.BOUNCED}),
    EmailState.SENT: frozenset({EmailState.BOUNCED}),
    # Retried by hand, when the cause is gone.
    EmailState.BOUNCED: frozenset({EmailState.SCHEDULED}),
    EmailState.CANCELLED: frozenset(),
    EmailState.SUPPRESSED: frozenset(),
}


def check_transition(old: EmailState, new: EmailState) -> None:
    """Raise ValueError unless an email may go from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise ValueError(f"an email cannot go from {old} to {new}")


def is_reported(to: EmailState, reason: object, leaving: Collection[EmailState], *, has_waited: bool) -> bool:
    """Return whether a move of an email to a state is in the log, for admins who look at the conversation.

    An email that is not needed, because its messages were read, is no news, unless it has waited longer than for its
    first time: then the log says so. One that had failed and waits again is news. `event_log/feed.py` lists the same.
    """
    if to in {EmailState.SCHEDULED, EmailState.SENDING}:
        return not {EmailState.FAILED, EmailState.BOUNCED}.isdisjoint(leaving)
    return reason != Reason.READ or has_waited


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What happens to an email after an attempt."""

    state: EmailState | None
    """The next state; None after an abandoned attempt: the email is released if the lease is still held."""
    delay: int | None = None
    """Seconds until the email is due again, before jitter; only for `scheduled`."""
    reason: Reason | None = None
    """Only for `failed`."""
    counts: bool = True
    """Whether the attempt moves the email along its retry schedule, towards giving up."""
    opens_breaker: bool = False
    """Whether all sending pauses."""


def retry_delays(
    schedule: Sequence[int], then_every: int = RETRY_EVERY, give_up_after: int = GIVE_UP_AFTER
) -> tuple[int, ...]:
    """Return the seconds between counted attempts: `schedule`, then `then_every` up to `give_up_after` in total.

    `schedule` is kept whole, even if it exceeds `give_up_after`. Raises ValueError for a negative delay or if
    `then_every` is not positive.
    """
    if then_every <= 0 or any(delay < 0 for delay in schedule):
        raise ValueError("retry delays must not be negative")
    repeats = max(0, give_up_after - sum(schedule)) // then_every
    return (*schedule, *[then_every] * repeats)


def next_step(  # noqa: PLR0911 - a return per outcome is the table it is
    outcome: Outcome,
    *,
    counted: int,
    uncertain: int,
    delays: Sequence[int],
    uncertain_delay: int,
    rejection: Reason = Reason.REJECTED,
    serves_others: bool = False,
) -> RetryDecision:
    """Return what follows an attempt.

    `counted` and `uncertain` are the numbers of this email's earlier attempts that counted and that ended uncertain.
    `delays` comes from `retry_delays`. Only counted attempts move through it, so emails don't expire while sending is
    paused or the breaker is open. `rejection` is the reason of a rejected email. A busy server that `serves_others`
    pauses only this email.
    """
    match outcome:
        case Outcome.ACCEPTED:
            return RetryDecision(EmailState.SENT)
        case Outcome.REJECTED:
            return RetryDecision(EmailState.FAILED, reason=rejection)
        case Outcome.DEFERRED if counted < len(delays):
            return RetryDecision(EmailState.SCHEDULED, delay=delays[counted])
        case Outcome.DEFERRED:
            return RetryDecision(EmailState.FAILED, reason=Reason.GAVE_UP)
        case Outcome.UNCERTAIN if uncertain + 1 < MAX_UNCERTAIN_ATTEMPTS:
            return RetryDecision(EmailState.SCHEDULED, delay=uncertain_delay)
        case Outcome.UNCERTAIN:
            return RetryDecision(EmailState.FAILED, reason=Reason.UNCERTAIN)
        case Outcome.MISCONFIGURED | Outcome.BUSY:
            # Due at once: the breaker decides when the next attempt is, not the retry schedule.
            delay = REFUSED_DELAY if serves_others else 0
            return RetryDecision(EmailState.SCHEDULED, delay=delay, counts=False, opens_breaker=not serves_others)
        case Outcome.REFUSED:
            return RetryDecision(EmailState.SCHEDULED, delay=REFUSED_DELAY, counts=False, opens_breaker=True)
        case Outcome.ABANDONED | Outcome.BOUNCED | Outcome.COMPLAINED:  # the last two are the end of no attempt
            return RetryDecision(None, counts=False)


def with_evidence(outcome: Outcome, own: Outcome | None, *, suspected: bool, setup_works: bool) -> Outcome:
    """Return `own` if the email itself is the cause of a failure, else `outcome`.

    It is the cause if it was refused before (`suspected`) and other emails were accepted since with the breaker closed
    (`setup_works`). `own` is None for failures that are never caused by the email.
    """
    return own if own is not None and suspected and setup_works else outcome


def with_jitter(delay: int, random: Callable[[], float]) -> float:
    """Return `delay` plus at most a tenth of it. `random` returns a number from 0 to 1."""
    return delay * (1 + MAX_JITTER * random())


@dataclass(frozen=True, slots=True)
class EmailLimit:
    """At most `max_emails` to one address in any `seconds`."""

    max_emails: int
    seconds: int


def email_limits(per_10_minutes: int, per_day: int) -> tuple[EmailLimit, ...]:
    """Return the limits in force; 0 means no limit."""
    limits = (EmailLimit(per_10_minutes, 600), EmailLimit(per_day, 24 * 3600))
    return tuple(limit for limit in limits if limit.max_emails)


def seconds_until_allowed(limits: Sequence[EmailLimit], ages: Sequence[float], in_flight: int) -> float:
    """Return the seconds until an address may get another email; 0 if it may get one now.

    `ages` are the seconds since each email that the address got or may have got, newest first; entries beyond the
    largest limit are ignored. `in_flight` is the number of emails being sent to it, which may or may not arrive.
    """
    wait = 0.0
    for limit in limits:
        left = limit.max_emails - in_flight
        if left <= 0:
            wait = max(wait, RECHECK_DELAY)
        elif len(ages) >= left and (needed := limit.seconds - ages[left - 1]) > 0:
            wait = max(wait, min(needed, RECHECK_DELAY) if in_flight else needed)
    return wait


def is_suppressing_suspended(bounced: int, sent: int) -> bool:
    """Return whether addresses are not suppressed: over 5 % of the emails of an hour bounced, so the cause may be ours.

    `bounced` counts addresses, so that nobody can do this alone. With fewer than 20 of both a share says nothing.
    """
    return max(bounced, sent) >= MIN_BOUNCES and bounced > MAX_BOUNCED * sent


def breaker_pause(outcome: Outcome, consecutive_trips: int) -> int:
    """Return the seconds that sending pauses after consecutive breaker trips: doubling from 15 to 300.

    A pause after a refused email starts at 2; one for a busy server is at most 60.
    """
    first = FIRST_REFUSED_PAUSE if outcome is Outcome.REFUSED else FIRST_BREAKER_PAUSE
    longest = LONGEST_BUSY_PAUSE if outcome is Outcome.BUSY else LONGEST_BREAKER_PAUSE
    doublings = min(consecutive_trips - 1, LONGEST_BREAKER_PAUSE.bit_length())
    return min(first << max(doublings, 0), longest)
