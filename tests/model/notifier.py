"""The notifications service in memory: the inbox, and the effect of each event."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.conversations.rules import Side
from services.notifications.rules import MAX_EVENT_ATTEMPTS, Audience
from tests.model.mailbox import SUPPORT, Mailbox
from tests.model.store import SECOND, Clock, Kind, Payload, UserVersion

ATTEMPT_SPACING = 2 * SECOND


class DiedError(Exception):
    """The process or its database connection died: uncommitted work is lost."""


class NothingKeptError(Exception):
    """A parked event without a payload to retry."""


@dataclass(frozen=True)
class Kept:
    """A parked event as kept for a manual retry; its payload may have been erased before."""

    payload: Payload | None


@dataclass
class Entry:
    """An event in the inbox."""

    attempts: int = 0
    attempted_at: int | None = None
    handled: bool = False
    parked: bool = False
    kept: Kept | None = None
    effect: Payload | None = None  # the payload that took effect

    @property
    def done(self) -> bool:
        """Return whether it needs no more handling."""
        return self.handled or self.parked


@dataclass
class Mark:
    """The known state of a conversation."""

    read: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    deleted: bool = False


@dataclass
class Record:
    """A `NEW_MESSAGE` notification."""

    user: str
    read: bool


class Notifier:
    """Every event takes effect once, in any order."""

    def __init__(self, clock: Clock, mailbox: type[Mailbox] = Mailbox) -> None:
        self.clock = clock
        self.inbox: dict[int, Entry] = {}
        self.people: dict[str, UserVersion] = {}
        self.marks: defaultdict[int, Mark] = defaultdict(Mark)
        self.records: dict[tuple[int, int], Record] = {}
        self.mailbox = mailbox(clock, self.people, self.is_read)
        self.cursor = 0
        self.poison: set[int] = set()  # events that crash the handling process

    def receive(self, event: int, payload: Payload | None, *, repeated: bool) -> bool:
        """Apply an event unless it was applied; return True when it needs no more handling."""
        attempts = 0
        if repeated:
            entry = self.inbox.setdefault(event, Entry())
            if entry.done:
                return True
            if not self.count_attempt(entry):
                return False
            attempts = entry.attempts
        if attempts > MAX_EVENT_ATTEMPTS:
            self.park(event, payload)
            return True
        if not self.may_take(event):
            return False
        self.take({event: payload})
        return True

    def park(self, event: int, payload: Payload | None) -> None:
        """Park an event; keep its payload unless its conversation is deleted."""
        gone = payload is not None and self._is_deleted(payload.conversation)
        self.inbox[event].parked, self.inbox[event].kept = True, None if gone else Kept(payload)

    def count_attempt(self, entry: Entry) -> bool:
        """Count one more attempt; return False when the last one was a moment ago."""
        if entry.attempted_at is not None and entry.attempted_at >= self.clock.now - ATTEMPT_SPACING:
            return False
        entry.attempts, entry.attempted_at = entry.attempts + 1, self.clock.now
        return True

    def may_take(self, event: int) -> bool:
        """Return whether an event still needs handling."""
        return event not in self.inbox or not self.inbox[event].done

    def receive_missing(self, events: Mapping[int, Payload | None]) -> bool:
        """Apply a page of the log: new events together, failed ones alone; return True when all are done."""
        missing = [event for event in events if event not in self.inbox or not self.inbox[event].done]
        tries = {event: self.inbox[event].attempts if event in self.inbox else 0 for event in missing}
        often = sorted((event for event in missing if tries[event] > 1), key=lambda event: tries[event])
        groups = [[event for event in missing if tries[event] == tried] for tried in (0, 1)]
        done = True
        for group in [*(group for group in groups if group), *([event] for event in often)]:
            done &= self._receive_group({event: events[event] for event in group})
        return done

    def _receive_group(self, events: Mapping[int, Payload | None]) -> bool:
        """Handle events together; if that fails, handle each of them alone."""
        before = {event: (entry.attempts, entry.attempted_at) for event, entry in self.inbox.items()}
        ready = [event for event in events if self.count_attempt(self.inbox.setdefault(event, Entry()))]
        for event in [event for event in ready if self.inbox[event].attempts > MAX_EVENT_ATTEMPTS]:
            self.park(event, events[event])
            ready.remove(event)
        try:
            self.take({event: events[event] for event in ready})
        except DiedError:
            if len(events) == 1:
                return False
            for event in ready:
                self.inbox[event].attempts, self.inbox[event].attempted_at = before.get(event, (0, None))[0], None
            left = [event for event in events if not self.inbox[event].done]
            return all(tuple(self._receive_group({event: events[event]}) for event in left))  # without short-circuiting
        return all(self.inbox[event].done for event in events)

    def take(self, events: Mapping[int, Payload | None]) -> None:
        """Handle events and mark them as handled, all or nothing."""
        if self.poison & events.keys():
            raise DiedError
        self.handle(*events.values())
        for event, payload in events.items():
            entry = self.inbox.setdefault(event, Entry())
            entry.handled, entry.parked, entry.kept, entry.effect = True, False, None, payload

    def retry_parked(self, event: int) -> None:
        """Apply a parked event."""
        kept = self.inbox[event].kept
        if kept is None:
            raise NothingKeptError
        self.take({event: kept.payload})

    def dismiss(self, record: tuple[int, int]) -> None:
        """Mark one notification as read."""
        if not self.records[record].read:
            self.records[record].read = True
            self.mailbox.review({record[0]}, Audience.CUSTOMER)

    def is_read(self, audience: Audience, conversation: int, number: int) -> bool:
        """Return whether a side has read a message."""
        side = Side.CUSTOMER if audience is Audience.CUSTOMER else Side.ADMIN
        record = self.records.get((conversation, number))
        return number <= self.marks[conversation].read[side] or (record is not None and record.read)

    # The effect of each event

    def handle(self, *payloads: Payload | None) -> None:
        """Apply payloads together, by kind; erased ones have no effect."""
        effects = [payload for payload in payloads if payload is not None]
        newest: dict[str, UserVersion] = {}
        for update in (update for payload in effects for update in payload.people):
            if update.id not in newest or newest[update.id].version < update.version:
                newest[update.id] = update
        known = [update for update in newest.values() if self.know(update)]
        deletions = [payload for payload in effects if payload.kind is Kind.DELETED]
        gone = {payload.conversation for payload in deletions}
        reads = [payload for payload in effects if payload.kind is Kind.READ]
        for payload in reads:
            self.read(payload)
        posts = sorted((one for one in effects if one.kind is Kind.POSTED), key=lambda one: one.number)
        posts = [one for one in posts if one.conversation not in gone and not self._is_deleted(one.conversation)]
        for payload in posts:
            self.posted(payload)
        for side, audience in ((Side.CUSTOMER, Audience.CUSTOMER), (Side.ADMIN, Audience.SUPPORT)):
            touched = {one.conversation for one in reads if one.side is side}
            touched |= {one.conversation for one in posts if one.side is not side}
            self.mailbox.review({one for one in touched if one is not None}, audience)
        for payload in deletions:
            self.deleted(payload)
        news = {update.id: self.clock.now for update in known if update.deleted}
        ends = {one.sender.id: one.at for one in effects if one.kind is Kind.PERSON and one.at and one.sender}
        for user, before in (ends | news).items():
            self.forget(user, before)

    def posted(self, payload: Payload) -> None:
        """Create the notification and the email of a message."""
        assert payload.conversation is not None
        assert payload.customer is not None
        if payload.side is Side.CUSTOMER:
            self.mailbox.join(payload, Audience.SUPPORT, SUPPORT)
            return
        message = (payload.conversation, payload.number)
        read = payload.number <= self.marks[payload.conversation].read[Side.CUSTOMER]
        self.records.setdefault(message, Record(payload.customer.id, read))
        self.mailbox.join(payload, Audience.CUSTOMER, payload.customer.id)

    def read(self, payload: Payload) -> None:
        """Raise the number of the last read message."""
        assert payload.conversation is not None
        assert payload.side is not None
        mark = self.marks[payload.conversation]
        mark.read[payload.side] = max(mark.read[payload.side], payload.number)
        if payload.side is Side.CUSTOMER:
            for (conversation, number), record in self.records.items():
                record.read |= conversation == payload.conversation and number <= payload.number

    def deleted(self, payload: Payload) -> None:
        """Leave a tombstone, and erase the conversation's data."""
        assert payload.conversation is not None
        self.marks[payload.conversation].deleted = True
        for message in [message for message in self.records if message[0] == payload.conversation]:
            del self.records[message]
        self.mailbox.erase(payload.conversation)
        for entry in self.inbox.values():
            stored = entry.kept and entry.kept.payload
            if stored and stored.conversation == payload.conversation:
                entry.kept = None

    def know(self, update: UserVersion) -> bool:
        """Save a user unless a newer version is known."""
        known = self.people.get(update.id)
        if known is not None and known.version >= update.version:
            return False
        self.people[update.id] = update
        return True

    def forget(self, user: str, before: int) -> None:
        """Erase a deleted user, and cancel their emails up to a time; the user may be back since."""
        self.mailbox.forget(user, before)
        for entry in self.inbox.values():
            if entry.kept and entry.kept.payload:
                entry.kept = Kept(entry.kept.payload.without(user))

    def _is_deleted(self, conversation: int | None) -> bool:
        return conversation is not None and self.marks[conversation].deleted
