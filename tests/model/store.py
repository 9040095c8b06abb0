"""The conversations service in memory: what it acknowledged, and its event log."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.conversations.rules import EFFECTS, Side, Status

ADMIN = "sam"
CUSTOMERS = ("anna", "ben")
SECOND = 1_000_000  # the clock counts microseconds, as the database does


@dataclass
class Clock:
    """The time, which only passes in steps."""

    now: int = 0


class Kind(StrEnum):
    """The kinds of events that the notifications service distinguishes; it ignores OTHER, and OPENED has no task."""

    POSTED = "posted"
    READ = "read"
    DELETED = "deleted"
    PERSON = "person"
    OPENED = "opened"
    OTHER = "other"


@dataclass(frozen=True)
class UserVersion:
    """A user as in events."""

    id: str
    version: int
    email: str | None
    deleted: bool = False


@dataclass(frozen=True)
class Payload:
    """An event's payload; its kind decides which fields are used."""

    kind: Kind
    conversation: int | None = None
    number: int = 0  # of the message, or of the last message read
    side: Side | None = None
    sender: UserVersion | None = None
    customer: UserVersion | None = None
    at: int = 0  # the time of a message, or of a user's deletion

    @property
    def people(self) -> Iterator[UserVersion]:
        """Return the users in it."""
        yield from {update.id: update for update in (self.sender, self.customer) if update is not None}.values()

    def without(self, user: str) -> "Payload":
        """Return the payload with a user erased."""
        nobody = UserVersion(user, 0, None, deleted=True)
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

    @property
    def is_relevant(self) -> bool:
        """Return whether the notifications service handles it; an erased opening no longer says anything."""
        return self.kind is not Kind.OTHER and not (self.kind is Kind.OPENED and self.payload is None)


@dataclass(frozen=True)
class Hint:
    """An event in flight through the broker, as it was published; `event` is its index in the log."""

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
    """The writes of the conversations service that reach the pipeline."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.users = {ADMIN: UserVersion(ADMIN, 2, "sam@store.test")}
        self.talks: list[Talk] = []
        self.log: list[Logged] = []
        self.acknowledged: dict[tuple[int, int], Side] = {}
        self._append(Payload(Kind.PERSON, sender=self.users[ADMIN]))

    @property
    def head(self) -> int:
        """Return the last assigned position."""
        return sum(entry.position is not None for entry in self.log)

    def put_user(self, user: str, email: str | None) -> None:
        """Sync a user from the store; an unchanged one gets no new version."""
        known = self.users.get(user, UserVersion(user, 1, None))
        update = UserVersion(user, known.version + 1, email)
        if user not in self.users or (known.email, known.deleted) != (email, False):
            self.users[user] = update
            self._append(Payload(Kind.PERSON, sender=update))

    def delete_user(self, user: str) -> None:
        """Erase a user, in the log too."""
        known = self.users[user]
        if known.deleted:
            return
        for entry in self.log:
            entry.payload = entry.payload and entry.payload.without(user)
        self.users[user] = UserVersion(user, known.version + 1, None, deleted=True)
        self._append(Payload(Kind.PERSON, sender=self.users[user], at=self.clock.now))

    def open(self, customer: str) -> bool:
        """Create a conversation without a message; return False when it is rejected."""
        if customer in self.users and self.users[customer].deleted:
            return False
        self.talks.append(Talk(customer))
        self._append(Payload(Kind.OPENED, len(self.talks) - 1, customer=self.users[customer]))
        return True

    def post(self, conversation: int, side: Side) -> bool:
        """Post a message; return False when it is rejected."""
        talk = self.talks[conversation]
        sender = self.users[ADMIN if side is Side.ADMIN else talk.customer]
        if talk.deleted or sender.deleted:
            return False
        effect = EFFECTS[side]
        talk.status = (effect.after_later if talk.count else effect.after_first)[talk.status]
        talk.count += 1
        talk.flags = {Side.ADMIN: effect.is_read_by_admin, Side.CUSTOMER: effect.is_read_by_user}
        self.acknowledged[conversation, talk.count] = side
        customer = self.users[talk.customer]
        self._append(Payload(Kind.POSTED, conversation, talk.count, side, sender, customer, self.clock.now))
        return True

    def read(self, conversation: int, side: Side, up_to: int) -> bool:
        """Raise the number of a side's last read message, if it changes. Return False when the conversation is gone."""
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
        """Close a conversation and delete it, including its events' payloads."""
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
        """Assign the next positions; return the hints to publish."""
        waiting = [index for index, entry in enumerate(self.log) if entry.position is None][:size]
        for position, index in enumerate(waiting, start=self.head + 1):
            self.log[index].position = position
        unpublished = {Kind.OTHER, Kind.OPENED}
        entries = [(index, self.log[index]) for index in waiting]
        return [Hint(index, self._as_read(entry.payload)) for index, entry in entries if entry.kind not in unpublished]

    def feed(self, after: int) -> list[tuple[int, Logged]]:
        """Return the events after a position, in order, each with its index."""
        found = [
            (index, replace(entry, payload=self._as_read(entry.payload)))
            for index, entry in enumerate(self.log)
            if (entry.position or 0) > after
        ]
        return sorted(found, key=lambda one: one[1].position or 0)

    def _as_read(self, payload: Payload | None) -> Payload | None:
        """Return a payload as readers get it: a message's event names the message, and people are as they are now."""
        if payload is None or payload.kind is not Kind.POSTED:
            return payload
        sender, customer = (person and self.users[person.id] for person in (payload.sender, payload.customer))
        return replace(payload, sender=sender, customer=customer)

    def _append(self, payload: Payload) -> None:
        self.log.append(Logged(payload.kind, payload.conversation, payload))
