"""The conversations service in memory: what it acknowledged, and the log that tells of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.conversations.rules import EFFECTS, Side, Status, status_after_message

ADMIN = "sam"
CUSTOMERS = ("anna", "ben")
SECOND = 1_000_000  # the clock counts microseconds, as the database does


@dataclass
class Clock:
    """The time, which passes when it is told to."""

    now: int = 0


class Kind(StrEnum):
    """What an event is to the notifications service; the others it has no use for."""

    POSTED = "posted"
    READ = "read"
    DELETED = "deleted"
    PERSON = "person"
    OTHER = "other"


@dataclass(frozen=True)
class Who:
    """A person as events carry one."""

    id: str
    version: int
    email: str | None
    deleted: bool = False


@dataclass(frozen=True)
class Payload:
    """What an event tells; which fields count is its kind's matter."""

    kind: Kind
    conversation: int | None = None
    number: int = 0  # of the message, or up to which was read
    side: Side | None = None
    sender: Who | None = None
    customer: Who | None = None
    at: int = 0  # of a message, and of a user's deletion

    @property
    def people(self) -> Iterator[Who]:
        """Return those whom it tells of."""
        yield from {who.id: who for who in (self.sender, self.customer) if who is not None}.values()

    def without(self, user: str) -> "Payload":
        """Return it with a person erased."""
        nobody = Who(user, 0, None, deleted=True)
        return replace(
            self,
            sender=nobody if self.sender and self.sender.id == user else self.sender,
            customer=nobody if self.customer and self.customer.id == user else self.customer,
        )


@dataclass
class Logged:
    """A row of the log."""

    kind: Kind
    conversation: int | None
    payload: Payload | None
    position: int | None = None


@dataclass(frozen=True)
class Hint:
    """An event on its way through the broker, as it was when it was published; `event` is its place in the log."""

    event: int
    payload: Payload | None


@dataclass
class Talk:
    """A conversation."""

    customer: str
    status: Status = Status.OPEN
    count: int = 0
    flags: dict[Side, bool] = field(default_factory=lambda: {Side.ADMIN: False, Side.CUSTOMER: True})
    read: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    deleted: bool = False


class Store:
    """Every write of the conversations service that the pipeline hears of."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.users = {ADMIN: Who(ADMIN, 2, "sam@store.test")}
        self.talks: list[Talk] = []
        self.log: list[Logged] = []
        self.acknowledged: dict[tuple[int, int], Side] = {}
        self._append(Payload(Kind.PERSON, sender=self.users[ADMIN]))

    @property
    def head(self) -> int:
        """Return the last position that was given."""
        return sum(entry.position is not None for entry in self.log)

    def put_user(self, user: str, email: str | None) -> None:
        """Take a user over from the store; what is as it was makes no version."""
        known = self.users.get(user, Who(user, 1, None))
        who = Who(user, known.version + 1, email)
        if user not in self.users or (known.email, known.deleted) != (email, False):
            self.users[user] = who
            self._append(Payload(Kind.PERSON, sender=who))

    def delete_user(self, user: str) -> None:
        """Erase a user, also in the log."""
        known = self.users[user]
        if known.deleted:
            return
        for entry in self.log:
            entry.payload = entry.payload and entry.payload.without(user)
        self.users[user] = Who(user, known.version + 1, None, deleted=True)
        self._append(Payload(Kind.PERSON, sender=self.users[user], at=self.clock.now))

    def open(self, customer: str) -> bool:
        """Create a conversation without a message; False when it is refused."""
        if customer in self.users and self.users[customer].deleted:
            return False
        self.talks.append(Talk(customer))
        self._append(Payload(Kind.OTHER, len(self.talks) - 1))
        return True

    def post(self, conversation: int, side: Side) -> bool:
        """Post a message; False when it is refused."""
        talk = self.talks[conversation]
        sender = self.users[ADMIN if side is Side.ADMIN else talk.customer]
        if talk.deleted or sender.deleted:
            return False
        effect = EFFECTS[side]
        talk.status = status_after_message(talk.status, side, first=talk.count == 0)
        talk.count += 1
        talk.flags = {Side.ADMIN: effect.is_read_by_admin, Side.CUSTOMER: effect.is_read_by_user}
        self.acknowledged[conversation, talk.count] = side
        customer = self.users[talk.customer]
        self._append(Payload(Kind.POSTED, conversation, talk.count, side, sender, customer, self.clock.now))
        return True

    def read(self, conversation: int, side: Side, up_to: int) -> bool:
        """Move a side's watermark; what moves nothing writes nothing. False when there is nothing to read."""
        talk = self.talks[conversation]
        if talk.deleted:
            return False
        reached = min(up_to, talk.count)
        newest = reached >= talk.count
        if talk.read[side] < reached or (newest and not talk.flags[side]):
            talk.read[side] = max(talk.read[side], reached)
            talk.flags[side] = talk.flags[side] or newest
            self._append(Payload(Kind.READ, conversation, talk.read[side], side))
        return True

    def delete(self, conversation: int) -> bool:
        """Close a conversation and delete it, with what the log tells of it."""
        talk = self.talks[conversation]
        if talk.deleted:
            return False
        if talk.status is not Status.CLOSED:
            talk.status = Status.CLOSED
            self._append(Payload(Kind.OTHER, conversation))
        for entry in self.log:
            if entry.conversation == conversation:
                entry.payload = None
        talk.deleted = True
        self._append(Payload(Kind.DELETED, conversation))
        return True

    def number(self, size: int) -> list[Hint]:
        """Give the next positions; return what would be published."""
        waiting = [place for place, entry in enumerate(self.log) if entry.position is None][:size]
        for position, place in enumerate(waiting, start=self.head + 1):
            self.log[place].position = position
        return [Hint(place, self.log[place].payload) for place in waiting if self.log[place].kind is not Kind.OTHER]

    def feed(self, after: int) -> list[tuple[int, Logged]]:
        """Return the events behind a position, in order, each with its place."""
        found = [(place, entry) for place, entry in enumerate(self.log) if (entry.position or 0) > after]
        return sorted(found, key=lambda one: one[1].position or 0)

    def _append(self, payload: Payload) -> None:
        self.log.append(Logged(payload.kind, payload.conversation, payload))
