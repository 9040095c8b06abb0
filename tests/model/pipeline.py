"""The whole pipeline in memory, with one method for each thing that can happen to a message.

The product is driven by the same methods (`tests/service/helpers/real_pipeline.py`), and must have the same state.
"""

from typing import Any

from services.conversations.rules import Side
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.rules import EmailState, Outcome
from tests.model.mailbox import Content, Held, Mail, Mailbox, Name
from tests.model.notifier import DiedError, NothingKeptError, Notifier
from tests.model.store import SECOND, Clock, Hint, Store

TICK = 1000  # microseconds that every step takes, so that no two emails are due at the same time

REFUSED = {
    "later": Attempt(Outcome.DEFERRED, Phase.RCPT, 450, "later"),
    "never": Attempt(Outcome.REJECTED, Phase.RCPT, 550, "never"),
    "no more now": Attempt(Outcome.BUSY, Phase.RCPT, 421, "closing", own=Outcome.DEFERRED),
    "policy": Attempt(Outcome.REFUSED, Phase.RCPT, 550, "5.7.1 no", own=Outcome.REJECTED),
    "no relay": Attempt(Outcome.REFUSED, Phase.RCPT, 554, "5.7.1 relay access denied", own=Outcome.DEFERRED),
    "busy": Attempt(Outcome.BUSY, Phase.BANNER, 421, "too many connections"),
    "nobody answers": Attempt(Outcome.MISCONFIGURED, Phase.CONNECT, None, "connection refused"),
}
"""The server's possible replies before the content is sent."""

ANSWERED = {
    "taken": Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "taken"),
    "later": Attempt(Outcome.DEFERRED, Phase.END_OF_DATA, 451, "later"),
    "never": Attempt(Outcome.REJECTED, Phase.END_OF_DATA, 554, "never"),
    "policy": Attempt(Outcome.REFUSED, Phase.END_OF_DATA, 550, "5.7.1 no", own=Outcome.REJECTED),
    "lost, taken": Attempt(Outcome.UNCERTAIN, Phase.END_OF_DATA, None, "connection lost"),
    "lost": Attempt(Outcome.UNCERTAIN, Phase.END_OF_DATA, None, "connection lost"),
}
"""The possible outcomes after the content was sent; whether the server has it is independent of the reply."""
KEEPS = {"taken", "lost, taken"}

ABANDONED = Attempt(Outcome.ABANDONED, Phase.DATA, None, "the lease was lost")


class Pipeline:
    """Store, log, broker, notifications service and mail server."""

    def __init__(
        self, store: type[Store] = Store, notifier: type[Notifier] = Notifier, mailbox: type[Mailbox] = Mailbox
    ) -> None:
        self.clock = Clock()
        self.store = store(self.clock)
        self.notifier = notifier(self.clock, mailbox)
        self.broker: list[Hint] = []
        self.held: list[Held] = []
        self.server: list[tuple[Name, str, Content]] = []  # received emails: name, address, messages
        self.arrivals: list[Held] = []  # the same, with the attempt
        self.replies: list[tuple[Mail, str]] = []  # the recorded replies

    @property
    def mails(self) -> list[Mail]:
        return self.notifier.mailbox.mails

    # What users do

    def put_user(self, user: str, email: str | None) -> None:
        self.store.put_user(user, email)

    def delete_user(self, user: str) -> None:
        self.store.delete_user(user)

    def open(self, customer: str) -> bool:
        return self.store.open(customer)

    def post(self, conversation: int, side: Side) -> bool:
        return self.store.post(conversation, side)

    def read(self, conversation: int, side: Side, up_to: int) -> bool:
        return self.store.read(conversation, side, up_to)

    def delete(self, conversation: int) -> bool:
        return self.store.delete(conversation)

    def dismiss(self, conversation: int, number: int) -> None:
        self.notifier.dismiss((conversation, number))

    def retry_email(self, name: Name) -> None:
        self.notifier.mailbox.retry(self.mail(name))

    def retry_parked(self, event: int) -> str:
        try:
            self.notifier.retry_parked(event)
        except DiedError:
            return "died"
        except NothingKeptError:
            return "nothing kept"
        return "done"

    # What happens to events

    def number(self, size: int, *, published: bool) -> int:
        """Number the log; return the number of hints. A relay that dies before publishing loses them."""
        hints = self.store.number(size)
        self.broker += hints if published else []
        return len(hints)

    def deliver(self, hint: int, *, kept: bool, repeated: bool) -> str:
        """Deliver a hint to a worker; with `kept`, the broker will deliver it again."""
        delivered = self.broker[hint] if kept else self.broker.pop(hint)
        return self._receive(delivered, repeated=repeated)

    def drop(self, hint: int) -> None:
        del self.broker[hint]

    def flush(self) -> None:
        self.broker.clear()

    def poison(self, event: int) -> None:
        """Make the event crash every process that handles it."""
        self.notifier.poison.add(event)

    def heal(self) -> None:
        self.notifier.poison.clear()

    def catch_up(self) -> bool:
        """Read the log after the cursor; return True when all of it is handled."""
        page = self.store.feed(self.notifier.cursor)
        wanted = {index: entry.payload for index, entry in page if entry.is_relevant}
        done = self.notifier.receive_missing(wanted)
        if done:
            self.notifier.cursor = self.store.head
        return done

    # What happens to emails

    def claim(self) -> list[Name]:
        """Claim the due emails for a process."""
        claimed = self.notifier.mailbox.claim()
        self.held += claimed
        return [held.name for held in claimed]

    def refuse(self, held: int, reply: str) -> None:
        """Refuse an email before its content is sent."""
        one = self.held.pop(held)
        self.replies.append((one.mail, reply))
        self.notifier.mailbox.record(one, REFUSED[reply])

    def begin(self, held: int) -> bool:
        """Begin sending the content, if the lease is still held."""
        if self.notifier.mailbox.begin(self.held[held]):
            return True
        self.notifier.mailbox.record(self.held.pop(held), ABANDONED)
        return False

    def answer(self, held: int, reply: str) -> None:
        """Receive the content or not, and reply or not."""
        one = self.held[held]
        one.answer = ANSWERED[reply]
        if reply in KEEPS:
            one.mail.received.append(one.content)
            self.arrivals.append(one)
            self.server.append((one.name, one.address, one.content))

    def record(self, held: int) -> None:
        """Record the server's reply for the holder."""
        one = self.held.pop(held)
        assert one.answer is not None
        self.replies.append((one.mail, next(reply for reply, known in ANSWERED.items() if known is one.answer)))
        self.notifier.mailbox.record(one, one.answer)

    def renew(self, held: int) -> None:
        self.notifier.mailbox.renew(self.held[held])

    def hand_back(self, held: int) -> None:
        self.notifier.mailbox.hand_back(self.held.pop(held))

    def crash(self, held: int) -> None:
        """Kill the holder of an email; its state is lost."""
        del self.held[held]

    # Time

    def tick(self) -> None:
        self.clock.now += TICK

    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds * SECOND

    # State

    def mail(self, name: Name) -> Mail:
        return next(mail for mail in self.mails if mail.lines and mail.name == name)

    def view(self) -> dict[str, Any]:
        """Return the state that the product must agree with."""
        notifier, mailbox = self.notifier, self.notifier.mailbox
        return {
            "log": [(entry.position, entry.payload is None) for entry in self.store.log],
            "talks": {
                number: (talk.status, *talk.flags.values(), *talk.read.values(), talk.count)
                for number, talk in enumerate(self.store.talks)
                if not talk.deleted
            },
            "inbox": {
                event: (entry.attempts, entry.handled, entry.parked, entry.kept is not None)
                for event, entry in notifier.inbox.items()
            },
            "people": {known.id: (known.version, known.email, known.deleted) for known in notifier.people.values()},
            "marks": {
                number: (*mark.read.values(), mark.deleted)
                for number, mark in notifier.marks.items()
                if any(mark.read.values()) or mark.deleted
            },
            "records": {message: (record.user, record.read) for message, record in notifier.records.items()},
            "mails": sorted(map(_view, mailbox.mails)),
            "tries": sorted(one.outcome for one in mailbox.tries),
            "server": self.server,
            "breaker": (mailbox.trips, mailbox.open_at),
        }

    def _receive(self, hint: Hint, *, repeated: bool) -> str:
        try:
            done = self.notifier.receive(hint.event, hint.payload, repeated=repeated)
        except DiedError:
            return "died"
        return "done" if done else "not yet"


def _view(mail: Mail) -> tuple[Any, ...]:
    waits = mail.state is EmailState.SCHEDULED
    return (
        mail.conversation,
        mail.audience,
        tuple((number, line.left_out) for number, line in sorted(mail.lines.items())),
        mail.state,
        mail.reason or "",
        (mail.counted, mail.uncertain),
        (mail.claimed, mail.lease is not None, mail.begun, mail.address or ""),
        mail.due if waits else 0,
    )
