"""Emails in memory: joined, reviewed, claimed, sent. Decisions are made by the product's own rules."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from services.notifications.mail.attempts import BEFORE_RECIPIENT, Attempt, Phase
from services.notifications.rules import (
    MAY_HAVE_ARRIVED,
    Audience,
    EmailState,
    Outcome,
    Reason,
    breaker_pause,
    check_transition,
    email_limits,
    next_step,
    retry_delays,
    seconds_until_allowed,
    with_evidence,
)
from tests.model.store import SECOND, Clock, Payload, UserVersion

RETRY_SECONDS = (60, 300_000)  # an email fails after three attempts
DELAYS = retry_delays(RETRY_SECONDS)
UNCERTAIN_SECONDS = 900
DELAY = {Audience.CUSTOMER: 30, Audience.SUPPORT: 300}  # seconds an email waits for further messages
LEASE = 60
MAILS = 2, 4  # limits of emails to an address in 10 minutes, and in a day
CAPS = email_limits(*MAILS)
SUPPORT = "support"
SUPPORT_EMAIL = "support@store.test"
WAITING = (EmailState.SCHEDULED, EmailState.SENDING)
UNSENT = (*WAITING, EmailState.FAILED)
GONE = Attempt(Outcome.ABANDONED, Phase.LEASE, None, "")
LOST = Attempt(Outcome.UNCERTAIN, Phase.LEASE, None, "")

Name = tuple[Audience, int, int]
Content = tuple[int, ...]


@dataclass
class Line:
    """A message in an email."""

    at: int
    sender: str
    left_out: bool = False


@dataclass(eq=False)
class Mail:
    """An email and its history."""

    audience: Audience
    recipient: str
    conversation: int
    due: int
    created: int
    state: EmailState = EmailState.SCHEDULED
    reason: Reason | None = None
    lines: dict[int, Line] = field(default_factory=dict)
    claimed: bool = False
    lease: int | None = None
    lease_until: int = 0
    begun: bool = False
    counted: int = 0
    uncertain: int = 0
    refused_at: int | None = None
    address: str | None = None
    mailbox: str | None = None  # the normalized address
    erased: bool = False
    history: list[EmailState] = field(default_factory=list)
    received: list[Content] = field(default_factory=list)
    doubts: int = 0  # attempts with a lost reply, ever
    by_hand: int = 0  # manual retries

    @property
    def name(self) -> Name:
        """Return the email's key: no message is in two emails. Only for an email with messages."""
        return self.audience, self.conversation, min(self.lines)


@dataclass(eq=False)
class Ended:
    """A recorded attempt."""

    outcome: Outcome
    mail: Mail
    at: int
    mailbox: str | None  # the address that may have received the email


@dataclass(eq=False)
class Held:
    """An email as claimed by a process, with what the process knew then."""

    mail: Mail
    name: Name
    lease: int
    counted: int
    uncertain: int
    refused_at: int | None
    content: Content
    address: str
    begun: bool = False
    begun_at: int = 0
    answer: Attempt | None = None


class Mailbox:
    """The emails of the notifications service, and the circuit breaker."""

    def __init__(
        self, clock: Clock, people: dict[str, UserVersion], is_read: Callable[[Audience, int, int], bool]
    ) -> None:
        self.clock = clock
        self.people = people
        self.is_read = is_read  # returns whether the recipient has read a message
        self.mails: list[Mail] = []
        self.leases = 0
        self.trips = 0
        self.open_at: int | None = None
        self.fault: Phase | None = None
        self.probe: int | None = None
        self.proven_at = -1
        self.tries: list[Ended] = []

    # Before sending

    def join(self, payload: Payload, audience: Audience, recipient: str) -> None:
        """Add a message to the open email, or to a new one."""
        assert payload.conversation is not None
        assert payload.sender is not None
        mail = next((one for one in self.about(payload.conversation, audience) if self.is_open(one)), None)
        if mail is None:
            mail = Mail(
                audience, recipient, payload.conversation, payload.at + DELAY[audience] * SECOND, self.clock.now
            )
            self.mails.append(mail)
            if reason := self.suppression(mail):
                mail.state, mail.reason = EmailState.SUPPRESSED, reason
            mail.history.append(mail.state)
        if not any(payload.number in one.lines for one in self.about(payload.conversation, audience)):
            mail.lines[payload.number] = Line(payload.at, payload.sender.id)

    def review(self, conversations: Collection[int], audience: Audience) -> None:
        """Adjust waiting emails to what their recipient has read."""
        for mail in self.mails:
            if mail.conversation in conversations and mail.audience == audience and mail.state is EmailState.SCHEDULED:
                unread = self.unread(mail)
                if not unread:
                    self.cancel(mail, Reason.READ)
                elif not mail.claimed:
                    first = min(mail.lines[number].at for number in unread)
                    due = min(first, self.clock.now) + DELAY[audience] * SECOND
                    mail.due = max(due, mail.due) if mail.reason is Reason.RATE_LIMITED else due

    def forget(self, user: str, before: int) -> None:
        """Cancel a deleted user's emails up to a time, and erase their address."""
        for mail in self.mails:
            theirs = mail.audience is Audience.CUSTOMER and mail.recipient == user and mail.created <= before
            if theirs:
                self.cancel(mail, Reason.USER_DELETED, leaving=UNSENT)
                mail.address = mail.mailbox = None
                for one in self.tries:
                    one.mailbox = one.mailbox if one.mail is not mail else None

    def erase(self, conversation: int) -> None:
        """Cancel the emails about a deleted conversation, and erase their content."""
        for mail in self.mails:
            if mail.conversation == conversation:
                self.cancel(mail, Reason.DELETED, leaving=UNSENT)
                mail.lines, mail.erased = {}, True

    def retry(self, mail: Mail) -> None:
        """Make a failed email due again, by a manual retry."""
        self.move(mail, EmailState.SCHEDULED, None, leaving=(EmailState.FAILED,))
        mail.counted = mail.uncertain = 0
        mail.refused_at = None
        mail.due = self.clock.now
        mail.by_hand += 1

    # Sending

    def claim(self) -> list[Held]:
        """Claim due emails under one lease, after releasing expired leases."""
        self._release_expired()
        if self.open_at is not None and self.open_at > self.clock.now:
            return []
        due = sorted((one for one in self.mails if self._is_due(one)), key=lambda one: one.due)
        self.leases += 1
        if self.trips:  # one email probes the setup, preferably one not refused yet
            due = sorted(due, key=lambda one: -1 if one.refused_at is None else one.refused_at)[:1]
        claimed = [self._claim(mail) for mail in due if not self._is_held_back(mail)]
        held = sorted((one for one in claimed if one is not None), key=lambda one: one.name)
        if self.trips and held:
            self.open_at, self.probe = self.clock.now + LEASE * SECOND, self.leases
        return held

    def begin(self, held: Held) -> bool:
        """Record that the content is about to be sent; return False when the lease is lost."""
        held.begun, held.begun_at = self.holds(held), self.clock.now
        held.mail.begun |= held.begun
        return held.begun

    def renew(self, held: Held) -> None:
        """Renew a lease, for all of its emails."""
        for mail in self.mails:
            if mail.lease == held.lease:
                mail.lease_until = self.clock.now + LEASE * SECOND

    def hand_back(self, held: Held) -> None:
        """Release an email whose content was not sent."""
        if self.holds(held):
            self.move(held.mail, EmailState.SCHEDULED, None, leaving=(EmailState.SENDING,))
        self._end_probe(held.lease)

    def record(self, held: Held, attempt: Attempt) -> None:
        """Record an attempt and its consequences."""
        mail = held.mail
        attempt = replace(attempt, outcome=self.judge(held, attempt))
        self._note(mail, attempt)
        held_still = self.holds(held)
        if held_still:
            self._follow(mail, attempt, held.counted, held.uncertain)
        self._note_set_up(attempt, held.lease)
        if not held_still and attempt.outcome is Outcome.ACCEPTED and not mail.begun:
            self.move(mail, EmailState.SENT, None, leaving=WAITING)

    # Details

    def judge(self, held: Held, attempt: Attempt) -> Outcome:
        """Return the outcome, considering whose fault a failure is."""
        suspected = held.refused_at is not None
        works = suspected and not self.trips and self.proven_at > (held.refused_at or 0)
        return with_evidence(attempt.outcome, attempt.own, suspected=suspected, setup_works=works)

    def about(self, conversation: int, audience: Audience) -> list[Mail]:
        """Return the emails about a conversation to one side."""
        return [mail for mail in self.mails if (mail.conversation, mail.audience) == (conversation, audience)]

    def is_open(self, mail: Mail) -> bool:
        """Return whether further messages may join."""
        return mail.state is EmailState.SCHEDULED and not mail.claimed

    def holds(self, held: Held) -> bool:
        """Return whether the email still has this lease."""
        return held.mail.lease == held.lease

    def unread(self, mail: Mail) -> list[int]:
        """Return the messages that the recipient has not read yet."""
        return sorted(
            number
            for number, line in mail.lines.items()
            if not line.left_out and not self.is_read(mail.audience, mail.conversation, number)
        )

    def suppression(self, mail: Mail) -> Reason | None:
        """Return the reason why an email must not be sent."""
        user = self.people.get(mail.recipient)
        if mail.audience is Audience.CUSTOMER and user is not None and user.deleted:
            return Reason.USER_DELETED
        address = self.address(mail)
        if address is None:
            return Reason.NO_ADDRESS
        own = mail.audience is Audience.CUSTOMER and address.lower() == SUPPORT_EMAIL
        return Reason.OWN_ADDRESS if own else None

    def wait(self, mailbox: str) -> float:
        """Return the seconds until an address may receive one more email."""
        ages = sorted((self.clock.now - one.at) / SECOND for one in self.tries if one.mailbox == mailbox)
        in_hand = sum(mail.state is EmailState.SENDING and mail.mailbox == mailbox for mail in self.mails)
        return seconds_until_allowed(CAPS, ages, in_hand)

    def address(self, mail: Mail) -> str | None:
        """Return an email's current address."""
        if mail.audience is Audience.SUPPORT:
            return SUPPORT_EMAIL
        user = self.people.get(mail.recipient)
        return user.email if user else None

    def cancel(self, mail: Mail, reason: Reason, leaving: Collection[EmailState] = WAITING) -> None:
        """Cancel an email, unless its content may be in flight."""
        if not (mail.state is EmailState.SENDING and mail.begun):
            self.move(mail, EmailState.CANCELLED, reason, leaving=leaving)

    def move(self, mail: Mail, to: EmailState, reason: Reason | None, *, leaving: Collection[EmailState]) -> None:
        """Move an email from one of these states to the next."""
        for state in leaving:
            check_transition(state, to)
        if mail.state in leaving:
            mail.state, mail.reason, mail.lease, mail.begun = to, reason, None, False
            mail.history.append(to)

    def _is_due(self, mail: Mail) -> bool:
        return mail.state is EmailState.SCHEDULED and mail.due <= self.clock.now

    def _is_held_back(self, mail: Mail) -> bool:
        address = self.address(mail)
        wait = self.wait(address.lower()) if address and not self.suppression(mail) else 0
        if wait:
            mail.due, mail.reason = self.clock.now + round(wait * SECOND), Reason.RATE_LIMITED
        return wait > 0

    def _claim(self, mail: Mail) -> Held | None:
        unread = self.unread(mail)
        if not unread:
            self.cancel(mail, Reason.DELETED if mail.erased else Reason.READ)
            return None
        if reason := self.suppression(mail):
            self.move(mail, EmailState.SUPPRESSED, reason, leaving=(EmailState.SCHEDULED,))
            return None
        content = self._compose(mail, unread)
        assert mail.address is not None
        mail.mailbox = mail.address.lower()
        self.move(mail, EmailState.SENDING, None, leaving=(EmailState.SCHEDULED,))
        mail.lease, mail.lease_until = self.leases, self.clock.now + LEASE * SECOND
        return Held(mail, mail.name, self.leases, mail.counted, mail.uncertain, mail.refused_at, content, mail.address)

    def _compose(self, mail: Mail, unread: list[int]) -> Content:
        if not mail.claimed:
            for number, line in mail.lines.items():
                line.left_out = number not in unread
        mail.claimed, mail.address = True, self.address(mail)
        return tuple(sorted(number for number, line in mail.lines.items() if not line.left_out))

    def _release_expired(self) -> None:
        expired = [one for one in self.mails if one.state is EmailState.SENDING and one.lease_until < self.clock.now]
        for index, mail in enumerate(expired):
            self._end_probe(mail.lease)
            attempt = LOST if mail.begun else GONE
            self._note(mail, attempt)
            self._follow(mail, attempt, mail.counted, mail.uncertain)
            mail.due += index if attempt is LOST else 0  # all due times differ, so that their order is defined

    def _note(self, mail: Mail, attempt: Attempt) -> None:
        arrived = attempt.outcome in MAY_HAVE_ARRIVED
        self.tries.append(Ended(attempt.outcome, mail, self.clock.now, mail.mailbox if arrived else None))

    def _follow(self, mail: Mail, attempt: Attempt, counted: int, uncertain: int) -> None:
        following = next_step(
            attempt.outcome,
            counted=counted,
            uncertain=uncertain,
            delays=DELAYS,
            uncertain_delay=UNCERTAIN_SECONDS,
            rejection=attempt.rejection,
        )
        state = following.state or EmailState.SCHEDULED
        self.move(mail, state, following.reason, leaving=(EmailState.SENDING,))
        mail.counted = counted + following.counts
        mail.uncertain = uncertain + (attempt.outcome is Outcome.UNCERTAIN)
        mail.doubts += attempt.outcome is Outcome.UNCERTAIN
        if following.delay is not None:
            mail.due = self.clock.now + following.delay * SECOND
        if following.opens_breaker and attempt.own is not None:
            mail.refused_at = self.clock.now

    def _note_set_up(self, attempt: Attempt, lease: int) -> None:
        if attempt.outcome in {Outcome.MISCONFIGURED, Outcome.BUSY, Outcome.REFUSED}:
            if self.open_at is None or self.open_at <= self.clock.now or self.probe == lease:
                self.trips += 1
                self.open_at = self.clock.now + breaker_pause(attempt.outcome, self.trips) * SECOND
                self.fault, self.probe = attempt.phase, None
            return
        if attempt.outcome is Outcome.ACCEPTED:
            self.proven_at = self.clock.now if self.trips else self.proven_at
            self._close()
        elif attempt.outcome is not Outcome.ABANDONED and self.fault in BEFORE_RECIPIENT:
            self._close()
        self._end_probe(lease)

    def _close(self) -> None:
        self.trips, self.open_at, self.fault, self.probe = 0, None, None, None

    def _end_probe(self, lease: int | None) -> None:
        if self.probe is not None and self.probe == lease:
            self.open_at, self.probe = self.clock.now, None
