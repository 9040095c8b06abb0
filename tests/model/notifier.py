"""The notifications service in memory: the inbox, and what each event does."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.conversations.rules import Side
from services.notifications.rules import MAX_EVENT_ATTEMPTS, Audience
from tests.model.mailbox import SUPPORT, Mailbox
from tests.model.store import SECOND, Clock, Kind, Payload, Who

ATTEMPT_SPACING = 2 * SECOND


class DiedError(Exception):
    """The process died, or the database let it down: what it had not committed is gone."""


class NothingKeptError(Exception):
    """A parked event of which nothing is left to retry."""


@dataclass(frozen=True)
class Kept:
    """A parked event as it is kept for the retry by hand; its payload may have been erased before."""

    payload: Payload | None


@dataclass
class Entry:
    """An event in the inbox."""

    attempts: int = 0
    attempted_at: int | None = None
    handled: bool = False
    parked: bool = False
    kept: Kept | None = None
    effect: Payload | None = None  # what it told when it took effect

    @property
    def done(self) -> bool:
        """Tell whether it is done with."""
        return self.handled or self.parked


@dataclass
class Mark:
    """What is known of a conversation."""

    read: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    deleted: bool = False


@dataclass
class Record:
    """A `NEW_MESSAGE` record."""

    user: str
    read: bool


class Notifier:
    """Every event takes effect once, in whatever order."""

    def __init__(self, clock: Clock, mailbox: type[Mailbox] = Mailbox) -> None:
        self.clock = clock
        self.inbox: dict[int, Entry] = {}
        self.people: dict[str, Who] = {}
        self.marks: defaultdict[int, Mark] = defaultdict(Mark)
        self.records: dict[tuple[int, int], Record] = {}
        self.mailbox = mailbox(clock, self.people, self.is_read)
        self.cursor = 0
        self.poison: set[int] = set()  # events that bring down who handles them

    def receive(self, event: int, payload: Payload | None, *, repeated: bool) -> bool:
        """Let an event take effect unless it has; True when it is done with."""
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
        """Give up on an event; what is kept of it names no deleted conversation."""
        gone = payload is not None and self._is_deleted(payload.conversation)
        self.inbox[event].parked, self.inbox[event].kept = True, None if gone else Kept(payload)

    def count_attempt(self, entry: Entry) -> bool:
        """Note one more attempt; False when the last one was a moment ago."""
        if entry.attempted_at is not None and entry.attempted_at >= self.clock.now - ATTEMPT_SPACING:
            return False
        entry.attempts, entry.attempted_at = entry.attempts + 1, self.clock.now
        return True

    def may_take(self, event: int) -> bool:
        """Tell whether nobody has handled an event."""
        return event not in self.inbox or not self.inbox[event].done

    def receive_missing(self, events: Mapping[int, Payload | None]) -> bool:
        """Let a stretch of the log take effect, what nobody has tried together, the rest alone; True if all is done."""
        missing = [event for event in events if event not in self.inbox or not self.inbox[event].done]
        tries = {event: self.inbox[event].attempts if event in self.inbox else 0 for event in missing}
        often = sorted((event for event in missing if tries[event] > 1), key=lambda event: tries[event])
        groups = [[event for event in missing if tries[event] == tried] for tried in (0, 1)]
        done = True
        for group in [*(group for group in groups if group), *([event] for event in often)]:
            done &= self._receive_group({event: events[event] for event in group})
        return done

    def _receive_group(self, events: Mapping[int, Payload | None]) -> bool:
        """Try events together; if that fails, it was not the fault of all of them, and each is tried alone."""
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
            return all(tuple(self._receive_group({event: events[event]}) for event in left))  # each has its turn
        return all(self.inbox[event].done for event in events)

    def take(self, events: Mapping[int, Payload | None]) -> None:
        """Handle events, and mark them as handled: all of it or nothing."""
        if self.poison & events.keys():
            raise DiedError
        self.handle(*events.values())
        for event, payload in events.items():
            entry = self.inbox.setdefault(event, Entry())
            entry.handled, entry.parked, entry.kept, entry.effect = True, False, None, payload

    def retry_parked(self, event: int) -> None:
        """Let a parked event take effect after all."""
        kept = self.inbox[event].kept
        if kept is None:
            raise NothingKeptError
        self.take({event: kept.payload})

    def dismiss(self, record: tuple[int, int]) -> None:
        """Read one record by itself."""
        if not self.records[record].read:
            self.records[record].read = True
            self.mailbox.review({record[0]}, Audience.CUSTOMER)

    def is_read(self, audience: Audience, conversation: int, number: int) -> bool:
        """Tell whether a side has read a message."""
        side = Side.CUSTOMER if audience is Audience.CUSTOMER else Side.ADMIN
        record = self.records.get((conversation, number))
        return number <= self.marks[conversation].read[side] or (record is not None and record.read)

    # What each event does

    def handle(self, *payloads: Payload | None) -> None:
        """Let what events tell take effect together, kind by kind; what was erased has none."""
        told = [payload for payload in payloads if payload is not None]
        newest: dict[str, Who] = {}
        for who in (who for payload in told for who in payload.people):
            if who.id not in newest or newest[who.id].version < who.version:
                newest[who.id] = who
        known = [who for who in newest.values() if self.know(who)]
        deletions = [payload for payload in told if payload.kind is Kind.DELETED]
        gone = {payload.conversation for payload in deletions}
        reads = [payload for payload in told if payload.kind is Kind.READ]
        for payload in reads:
            self.read(payload)
        posts = sorted((one for one in told if one.kind is Kind.POSTED), key=lambda one: one.number)
        posts = [one for one in posts if one.conversation not in gone and not self._is_deleted(one.conversation)]
        for payload in posts:
            self.posted(payload)
        for side, audience in ((Side.CUSTOMER, Audience.CUSTOMER), (Side.ADMIN, Audience.SUPPORT)):
            touched = {one.conversation for one in reads if one.side is side}
            touched |= {one.conversation for one in posts if one.side is not side}
            self.mailbox.review({one for one in touched if one is not None}, audience)
        for payload in deletions:
            self.deleted(payload)
        news = {who.id: self.clock.now for who in known if who.deleted}
        ends = {one.sender.id: one.at for one in told if one.kind is Kind.PERSON and one.at and one.sender}
        for user, before in (ends | news).items():
            self.forget(user, before)

    def posted(self, payload: Payload) -> None:
        """Make the record and the mail of a message."""
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
        """Move a watermark."""
        assert payload.conversation is not None
        assert payload.side is not None
        mark = self.marks[payload.conversation]
        mark.read[payload.side] = max(mark.read[payload.side], payload.number)
        if payload.side is Side.CUSTOMER:
            for (conversation, number), record in self.records.items():
                record.read |= conversation == payload.conversation and number <= payload.number

    def deleted(self, payload: Payload) -> None:
        """Leave a tombstone, and erase what was there."""
        assert payload.conversation is not None
        self.marks[payload.conversation].deleted = True
        for message in [message for message in self.records if message[0] == payload.conversation]:
            del self.records[message]
        self.mailbox.erase(payload.conversation)
        for entry in self.inbox.values():
            told = entry.kept and entry.kept.payload
            if told and told.conversation == payload.conversation:
                entry.kept = None

    def know(self, who: Who) -> bool:
        """Take a person over unless a newer version is known."""
        known = self.people.get(who.id)
        if known is not None and known.version >= who.version:
            return False
        self.people[who.id] = who
        return True

    def forget(self, user: str, before: int) -> None:
        """Erase a deleted user, and cancel their mail up to a time; they may be back."""
        self.mailbox.forget(user, before)
        for entry in self.inbox.values():
            if entry.kept and entry.kept.payload:
                entry.kept = Kept(entry.kept.payload.without(user))

    def _is_deleted(self, conversation: int | None) -> bool:
        return conversation is not None and self.marks[conversation].deleted
