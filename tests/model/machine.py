"""A state machine that takes random steps with a pipeline, and checks the guarantees after each and at the end."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.conversations.rules import Side
from services.notifications.rules import MAX_EVENT_ATTEMPTS, EmailState
from tests.model.mailbox import LEASE, UNCERTAIN_SECONDS, WAITING, Mail
from tests.model.pipeline import ANSWERED, REFUSED, Pipeline
from tests.model.promise import check_always, check_at_rest
from tests.model.store import CUSTOMERS, SECOND

ANY = st.integers(0, 7)  # an index into the existing things, modulo their number
SIDES = st.sampled_from(Side)
TIMES = st.sampled_from([1, 3, 16, 31, LEASE + 1, 301, UNCERTAIN_SECONDS + 1, 300_001])
ANSWERS = st.sampled_from(sorted(ANSWERED))
ADDRESSES = st.sampled_from(["new@customer.test", "OLD@customer.test", "Support@Store.test", None])
MEANWHILE = st.sampled_from(["nothing", "read", "deleted", "user deleted"])
LEASES = st.sampled_from(["held", "run out", "used by another"])
HANDLED = st.sampled_from(["later", "published", "by the sweeper", "backwards"])
MAX_CONVERSATIONS = 3
MAX_ROUNDS = 60  # until an undisturbed pipeline is at rest


class Machine(RuleBasedStateMachine):
    """Takes any step at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = self.make_pipeline()

    def make_pipeline(self) -> Pipeline:
        return Pipeline()

    def do(self, step: str, *args: Any, **options: Any) -> Any:
        """Call a method of the pipeline by its name."""
        self.pipeline.tick()
        return getattr(self.pipeline, step)(*args, **options)

    @initialize(first=SIDES, second=SIDES, handled=st.booleans())
    def begin_with_a_message(self, first: Side, second: Side, handled: bool) -> None:
        for user in CUSTOMERS:
            self.do("put_user", user, "old@customer.test")  # both customers have the same address
            self.do("open", user)
        self.do("post", 0, first)
        self.do("post", 0, second)
        if handled:
            self.catch_up()

    # Users

    @rule(user=st.sampled_from(CUSTOMERS), email=ADDRESSES, handled=HANDLED)
    def put_user(self, user: str, email: str | None, handled: str) -> None:
        self.do("put_user", user, email)
        self.handle(handled)

    @rule(user=st.sampled_from(CUSTOMERS), handled=HANDLED)
    def delete_user(self, user: str, handled: str) -> None:
        self.do("delete_user", user)
        self.handle(handled)

    @precondition(lambda self: len(self.pipeline.store.talks) < MAX_CONVERSATIONS)
    @rule(customer=st.sampled_from(CUSTOMERS))
    def open(self, customer: str) -> None:
        self.do("open", customer)

    @rule(talk=ANY, side=SIDES, times=st.integers(1, 3), seen=st.booleans(), handled=HANDLED)
    def post(self, talk: int, side: Side, times: int, seen: bool, handled: str) -> None:
        """Post some messages, which the other side may read at once."""
        for _ in range(times):
            self.do("post", self.talk(talk), side)
        if seen:
            reader = Side.ADMIN if side is Side.CUSTOMER else Side.CUSTOMER
            self.do("read", self.talk(talk), reader, self.pipeline.store.talks[self.talk(talk)].count)
        self.handle(handled)

    @rule(talk=ANY, side=SIDES, up_to=st.integers(1, 4), further=st.booleans(), handled=HANDLED)
    def read(self, talk: int, side: Side, up_to: int, further: bool, handled: str) -> None:
        self.do("read", self.talk(talk), side, up_to)
        if further:
            self.do("read", self.talk(talk), side, up_to + 1)
        self.handle(handled)

    @precondition(lambda self: sum(not talk.deleted for talk in self.pipeline.store.talks) > 1)
    @rule(talk=ANY, last_words=st.booleans(), handled=HANDLED)
    def delete(self, talk: int, last_words: bool, handled: str) -> None:
        """Delete a conversation, perhaps with a message of it in flight."""
        if last_words:
            self.do("post", self.talk(talk), Side.ADMIN)
            self.do("number", 1000, published=True)
        self.do("delete", self.talk(talk))
        self.handle(handled)

    @precondition(lambda self: self.pipeline.notifier.records)
    @rule(which=ANY)
    def dismiss(self, which: int) -> None:
        self.do("dismiss", *self.one(sorted(self.pipeline.notifier.records), which))

    @precondition(lambda self: self.failed)
    @rule(which=ANY)
    def retry_email(self, which: int) -> None:
        self.do("retry_email", self.one(self.failed, which))

    # Events

    @rule(size=st.sampled_from([1000, 1000, 1, 2]), published=st.booleans())
    def number(self, size: int, published: bool) -> None:
        self.do("number", size, published=published)

    @precondition(lambda self: self.pipeline.broker)
    @rule(hint=ANY, kept=st.booleans(), repeated=st.booleans())
    def deliver(self, hint: int, kept: bool, repeated: bool) -> None:
        self.do("deliver", hint % len(self.pipeline.broker), kept=kept, repeated=repeated)

    def handle(self, how: str) -> None:
        """Handle the last change, or leave it for later."""
        match how:
            case "published":
                self.do("number", 1000, published=True)
            case "by the sweeper":
                self.catch_up()
            case "backwards":
                self.deliver_all(backwards=True, kept=False)

    @rule(backwards=st.booleans(), kept=st.booleans())
    def deliver_all(self, backwards: bool, kept: bool) -> None:
        self.do("number", 1000, published=True)
        hints = range(len(self.pipeline.broker))
        for hint in reversed(hints) if backwards else hints:
            self.do("deliver", hint if backwards or kept else 0, kept=kept, repeated=False)

    @precondition(lambda self: self.pipeline.broker)
    @rule(hint=ANY)
    def drop(self, hint: int) -> None:
        self.do("drop", hint % len(self.pipeline.broker))

    @precondition(lambda self: self.pipeline.broker)
    @rule()
    def flush(self) -> None:
        self.do("flush")

    @rule()
    def catch_up(self) -> None:
        """Run the sweeper over all events while the hints are still in flight."""
        self.do("number", 1000, published=True)
        self.do("catch_up")

    @precondition(lambda self: self.undone and not self.pipeline.notifier.poison)
    @rule(which=ANY)
    def poison(self, which: int) -> None:
        self.do("poison", self.one(self.undone, which))

    @precondition(lambda self: self.undone and not self.pipeline.notifier.poison)
    @rule(which=ANY)
    def give_up_on(self, which: int) -> None:
        """Make an event fail until it is parked, then fix its cause."""
        self.do("poison", self.one(self.undone, which))
        self.do("number", 1000, published=True)
        for _ in range(MAX_EVENT_ATTEMPTS + 1):
            self.do("pass_time", 3)
            self.do("catch_up")
        self.do("heal")

    @precondition(lambda self: self.pipeline.notifier.poison)
    @rule()
    def heal(self) -> None:
        self.do("heal")

    @precondition(lambda self: self.parked)
    @rule(which=ANY)
    def retry_parked(self, which: int) -> None:
        self.do("retry_parked", self.one(self.parked, which))

    # Emails

    @precondition(lambda self: self.waiting)
    @rule()
    def claim(self) -> None:
        self.wait_for_mail()
        self.do("claim")

    @precondition(lambda self: self.ready)
    @rule(which=ANY, reply=st.sampled_from(sorted(REFUSED)))
    def refuse(self, which: int, reply: str) -> None:
        self.do("refuse", self.one(self.ready, which), reply)

    @precondition(lambda self: self.ready)
    @rule(which=ANY)
    def begin(self, which: int) -> None:
        self.do("begin", self.one(self.ready, which))

    @precondition(lambda self: self.begun)
    @rule(which=ANY, reply=ANSWERS, recorded=st.booleans())
    def answer(self, which: int, reply: str, recorded: bool) -> None:
        held = self.one(self.begun, which)
        self.do("answer", held, reply)
        if recorded:
            self.do("record", held)

    @precondition(lambda self: self.answered)
    @rule(which=ANY)
    def record(self, which: int) -> None:
        self.do("record", self.one(self.answered, which))

    @precondition(lambda self: self.pipeline.held)
    @rule(which=ANY)
    def renew(self, which: int) -> None:
        self.do("renew", which % len(self.pipeline.held))

    @precondition(lambda self: self.ready)
    @rule(which=ANY)
    def hand_back(self, which: int) -> None:
        self.do("hand_back", self.one(self.ready, which))

    @precondition(lambda self: self.pipeline.held)
    @rule(which=ANY)
    def crash(self, which: int) -> None:
        self.do("crash", which % len(self.pipeline.held))

    @precondition(lambda self: self.waiting)
    @rule(reply=st.sampled_from(sorted(REFUSED)))
    def send_in_vain(self, reply: str) -> None:
        """Attempt all emails that are due next; the server refuses them."""
        self.wait_for_mail()
        for _ in self.do("claim"):
            self.do("refuse", len(self.pipeline.held) - 1, reply)

    @precondition(lambda self: self.waiting)
    @rule(reply=ANSWERS, dies=st.booleans())
    def send(self, reply: str, dies: bool) -> None:
        """Send all emails that are due next, or crash before the outcomes are recorded."""
        self.wait_for_mail()
        for _ in self.do("claim"):
            self.go_on(len(self.pipeline.held) - 1, reply, dies=dies)

    @precondition(lambda self: self.waiting)
    @rule(reply=ANSWERS, begun=st.booleans(), meanwhile=MEANWHILE, lease=LEASES)
    def send_slowly(self, reply: str, begun: bool, meanwhile: str, lease: str) -> None:
        """Send an email slowly, while something happens to it or its lease."""
        self.wait_for_mail()
        if not self.do("claim"):
            return
        held = self.pipeline.held[-1]
        if begun:
            self.do("begin", len(self.pipeline.held) - 1)
        _, conversation, number = held.name
        match meanwhile:
            case "read":
                self.do("read", conversation, Side.CUSTOMER, number + 1)
            case "deleted":
                self.do("delete", conversation)
            case "user deleted":
                self.do("delete_user", self.pipeline.store.talks[conversation].customer)
        self.catch_up()
        if lease != "held":
            self.do("pass_time", LEASE + 1)
            self.do("claim")
        if lease == "used by another" and self.waiting:
            self.send(reply, dies=False)
        self.go_on(self.pipeline.held.index(held), reply, dies=False)

    def go_on(self, held: int, reply: str, *, dies: bool) -> None:
        """Finish the email of a holder."""
        if self.pipeline.held[held].begun or self.do("begin", held):
            self.do("answer", held, reply)
            self.do("crash" if dies else "record", held)

    # Time

    @rule(seconds=TIMES)
    def pass_time(self, seconds: int) -> None:
        self.do("pass_time", seconds)

    # Guarantees

    @invariant()
    def guarantees_hold_at_every_moment(self) -> None:
        check_always(self.pipeline)

    def teardown(self) -> None:
        """Stop all disturbances, and let the pipeline come to rest."""
        for _ in list(self.pipeline.held):
            self.do("crash", 0)
        self.do("heal")
        self.do("number", 1000, published=False)
        self.until_at_rest(self.caught_up)
        for event in self.parked:
            self.do("retry_parked", event)
        self.until_at_rest(self.mailed)
        check_always(self.pipeline)
        check_at_rest(self.pipeline)

    def until_at_rest(self, look: Any) -> None:
        for _ in range(MAX_ROUNDS):
            if look():
                return
        raise AssertionError("the pipeline does not come to rest")

    def caught_up(self) -> bool:
        done: bool = self.do("catch_up")
        if not done:
            self.do("pass_time", 3)
        return done

    def mailed(self) -> bool:
        if not self.waiting:
            return True
        self.send("taken", dies=False)
        return False

    # Things to choose from

    def one(self, things: Any, which: int) -> Any:
        return things[which % len(things)]

    def talk(self, which: int) -> int:
        return which % len(self.pipeline.store.talks)

    @property
    def undone(self) -> list[int]:
        inbox = self.pipeline.notifier.inbox
        useful = (index for index, entry in enumerate(self.pipeline.store.log) if entry.is_relevant)
        return [index for index in useful if index not in inbox or not inbox[index].done]

    @property
    def parked(self) -> list[int]:
        return sorted(event for event, entry in self.pipeline.notifier.inbox.items() if entry.parked)

    @property
    def failed(self) -> list[Any]:
        return [mail.name for mail in self.pipeline.mails if mail.state is EmailState.FAILED and mail.lines]

    @property
    def ready(self) -> list[int]:
        return [index for index, held in enumerate(self.pipeline.held) if not held.begun]

    @property
    def begun(self) -> list[int]:
        return [index for index, held in enumerate(self.pipeline.held) if held.begun and held.answer is None]

    @property
    def answered(self) -> list[int]:
        return [index for index, held in enumerate(self.pipeline.held) if held.answer is not None]

    @property
    def waiting(self) -> list[Mail]:
        return [mail for mail in self.pipeline.mails if mail.state in WAITING]

    def wait_for_mail(self) -> None:
        """Advance the time until an email is due or its lease has expired, and the circuit breaker allows sending."""
        opens = self.pipeline.notifier.mailbox.open_at or 0
        held = [mail.lease_until + 1 for mail in self.waiting if mail.state is EmailState.SENDING]
        due = [mail.due for mail in self.waiting if mail.state is EmailState.SCHEDULED]
        missing = max(min([*due, *held]), opens) - self.pipeline.clock.now
        if missing > 0:
            self.do("pass_time", -(-missing // SECOND))
