"""The states of an email, and what follows each try to send it. Pure; times are seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

GIVE_UP_AFTER = 3 * 24 * 3600
RETRY_EVERY = 4 * 3600
MAX_JITTER = 0.1
MAX_UNCERTAIN_TRIES = 2
MAX_EVENT_ATTEMPTS = 5
FIRST_BREAKER_PAUSE = 15
FIRST_REFUSED_PAUSE = 2  # soon: often it is one recipient's policy, and the next mail goes through
LONGEST_BREAKER_PAUSE = 300
LONGEST_BUSY_PAUSE = 60
REFUSED_DELAY = 30  # seconds in which other mail shows whether the set-up works
LOOK_AGAIN = 60  # seconds until a mail that waits for what is being sent to its address is looked at again


class Audience(StrEnum):
    """Whom a mail is for."""

    CUSTOMER = "customer"
    SUPPORT = "support"


class EmailState(StrEnum):
    """Where an email stands. `sending` is leased to one process."""

    SCHEDULED = "scheduled"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"


class Outcome(StrEnum):
    """How one try to send ended."""

    ACCEPTED = "accepted"
    """The server took the mail."""
    REJECTED = "rejected"
    """The server will never take this mail: 5xx to RCPT or DATA."""
    DEFERRED = "deferred"
    """The server does not have it and may take it later: 4xx to this mail, or a break before the final dot."""
    UNCERTAIN = "uncertain"
    """The server may have it: a break behind the final dot, or a lease that ran out with `data_at` set."""
    MISCONFIGURED = "misconfigured"
    """No mail would have gone through: the fault is of the set-up, or the server does not answer."""
    BUSY = "busy"
    """The server takes nothing at the moment: 4xx or a break before the recipient is named, or 421 anywhere."""
    REFUSED = "refused"
    """The recipient or the text was refused for a reason that may be the set-up's: 5.7.x, relaying, the sender."""
    ABANDONED = "abandoned"
    """Given up before the final dot: the lease was no longer ours, or the sender had to stop."""


MAY_HAVE_ARRIVED = frozenset({Outcome.ACCEPTED, Outcome.UNCERTAIN})
"""After these the recipient may have the mail."""


class Reason(StrEnum):
    """Why an email was cancelled, suppressed or failed; or, of a scheduled one, why it waits."""

    READ = "read"
    DELETED = "deleted"
    USER_DELETED = "user-deleted"
    NO_ADDRESS = "no-address"
    NO_SMTP = "no-smtp"
    RECIPIENT_NOT_ALLOWED = "recipient-not-allowed"
    OWN_ADDRESS = "own-address"
    """A customer's address is the system's own: a mail to it would come back to us."""
    UNATTENDED_ADDRESS = "unattended-address"
    """Nobody reads what comes to such an address, and machines answer it."""
    RATE_LIMITED = "rate-limited"
    """The only one of a scheduled mail: its address has had as many as it may, and it waits for room."""
    REJECTED = "rejected"
    ADDRESS_NOT_SUPPORTED = "address-not-supported"
    TOO_LARGE = "too-large"
    GAVE_UP = "gave-up"
    UNCERTAIN = "uncertain"
    RESTORED = "restored"


MAY_HAVE_ARRIVED_REASONS = frozenset({Reason.UNCERTAIN, Reason.RESTORED})
"""A mail that failed for these may be with its recipient: it is retried by its id only."""


TRANSITIONS: dict[EmailState, frozenset[EmailState]] = {
    # To sent: the late answer to a try whose lease had run out; better than to send the mail again.
    # To failed: the database was restored from a backup, and the mail may have been sent since.
    EmailState.SCHEDULED: frozenset(set(EmailState) - {EmailState.SCHEDULED}),
    # Back to scheduled: to be tried again, or its lease ran out.
    EmailState.SENDING: frozenset(set(EmailState) - {EmailState.SENDING}),
    # Retried by hand; or its messages were deleted, and nothing is left to retry.
    EmailState.FAILED: frozenset({EmailState.SCHEDULED, EmailState.CANCELLED}),
    EmailState.SENT: frozenset(),
    EmailState.CANCELLED: frozenset(),
    EmailState.SUPPRESSED: frozenset(),
}


def check_transition(old: EmailState, new: EmailState) -> None:
    """Raise ValueError unless an email may go from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise ValueError(f"an email cannot go from {old} to {new}")


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What to record about an email after one try."""

    state: EmailState | None
    """The next state; None when the email is another holder's and must be left alone."""
    delay: int | None = None
    """Seconds until it is due again, before jitter; given for `scheduled` only."""
    reason: Reason | None = None
    """Given for `failed` only."""
    counts: bool = True
    """Whether the try moves the email along its retry schedule, and so towards giving up."""
    opens_breaker: bool = False
    """Whether all sending has to pause."""


def retry_delays(
    schedule: Sequence[int], then_every: int = RETRY_EVERY, give_up_after: int = GIVE_UP_AFTER
) -> tuple[int, ...]:
    """Write out the seconds between counted attempts: `schedule`, then `then_every` up to `give_up_after`.

    What was given is kept whole, even beyond `give_up_after`. Raises ValueError for a negative delay or a
    `then_every` that is not positive.
    """
    if then_every <= 0 or any(delay < 0 for delay in schedule):
        raise ValueError("retry delays must not be negative")
    more = max(0, give_up_after - sum(schedule)) // then_every
    return (*schedule, *[then_every] * more)


def next_step(  # noqa: PLR0911 - a return per outcome is the table it is
    outcome: Outcome,
    *,
    counted: int,
    uncertain: int,
    delays: Sequence[int],
    uncertain_delay: int,
    rejection: Reason = Reason.REJECTED,
) -> RetryDecision:
    """Say what follows a try.

    `counted` and `uncertain` are the attempts of this email that counted, and those that ended uncertain,
    before this one; `delays` is what `retry_delays` wrote out. The position in it is the give-up clock, so
    the clock stands still while the breaker is open or mail is paused. `rejection` names why a rejected
    mail was rejected.
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
        case Outcome.UNCERTAIN if uncertain + 1 < MAX_UNCERTAIN_TRIES:
            return RetryDecision(EmailState.SCHEDULED, delay=uncertain_delay)
        case Outcome.UNCERTAIN:
            return RetryDecision(EmailState.FAILED, reason=Reason.UNCERTAIN)
        case Outcome.MISCONFIGURED | Outcome.BUSY:
            # Due at once: the breaker, not the mail's schedule, says when the next try is.
            return RetryDecision(EmailState.SCHEDULED, delay=0, counts=False, opens_breaker=True)
        case Outcome.REFUSED:
            return RetryDecision(EmailState.SCHEDULED, delay=REFUSED_DELAY, counts=False, opens_breaker=True)
        case Outcome.ABANDONED:
            return RetryDecision(None, counts=False)


def with_evidence(outcome: Outcome, own: Outcome | None, *, suspected: bool, set_up_works: bool) -> Outcome:
    """Decide whose fault a failure is: the mail's own only if others went through since it first failed so.

    `own` is what the failure means then; None when it is never the mail's. `suspected`: the same mail failed so
    before. `set_up_works`: the breaker is closed, and the server has accepted other mail since.
    """
    return own if own is not None and suspected and set_up_works else outcome


def with_jitter(delay: int, random: Callable[[], float]) -> float:
    """Spread `delay`: never earlier, at most a tenth later. `random` gives a number from 0 to 1."""
    return delay * (1 + MAX_JITTER * random())


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so many mails to one address within any so many seconds."""

    most: int
    seconds: int


def mail_caps(per_10_minutes: int, per_day: int) -> tuple[Cap, ...]:
    """Return the caps that hold; 0 means none."""
    return tuple(cap for cap in (Cap(per_10_minutes, 600), Cap(per_day, 24 * 3600)) if cap.most)


def wait_for_room(caps: Sequence[Cap], ages: Sequence[float], in_hand: int) -> float:
    """Return the seconds until an address may get one more mail; 0 when it may now.

    `ages` are the seconds since the mails that it got, or may have got, the newest first; of more than the largest
    cap the rest does not count. `in_hand` are those that are being sent to it: they may arrive, or make room again.
    """
    wait = 0.0
    for cap in caps:
        left = cap.most - in_hand
        if left <= 0:
            wait = max(wait, LOOK_AGAIN)
        elif len(ages) >= left and (needed := cap.seconds - ages[left - 1]) > 0:
            wait = max(wait, min(needed, LOOK_AGAIN) if in_hand else needed)
    return wait


def breaker_pause(outcome: Outcome, consecutive_trips: int) -> int:
    """Return the seconds that sending pauses after so many trips in a row: doubling from 15 to 300.

    From 2 when a mail was refused, and up to 60 for a busy server.
    """
    first = FIRST_REFUSED_PAUSE if outcome is Outcome.REFUSED else FIRST_BREAKER_PAUSE
    longest = LONGEST_BUSY_PAUSE if outcome is Outcome.BUSY else LONGEST_BREAKER_PAUSE
    doublings = min(consecutive_trips - 1, LONGEST_BREAKER_PAUSE.bit_length())
    return min(first << max(doublings, 0), longest)
