"""The whole way of a message in memory: whatever happens in whatever order, what is promised holds.

And the machine that shows it can fail: it finds out every pipeline that breaks a promise.
"""

import os
from collections.abc import Callable, Collection

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from services.notifications.mail.attempts import Attempt
from services.notifications.rules import EmailState, Outcome, Reason
from tests.model.machine import Machine
from tests.model.mailbox import WAITING, Held, Mail, Mailbox
from tests.model.notifier import Notifier
from tests.model.pipeline import Pipeline
from tests.model.store import Hint, Payload, Store, Who

PLAY = settings(stateful_step_count=40, database=None)
pytestmark = pytest.mark.long
FIND_OUT = settings(
    PLAY,
    max_examples=3000,
    derandomize=True,  # the same games every time: what is found out once is always
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


@pytest.mark.timeout(600)  # a game that fails is made as short as it can be first
def test_whatever_happens_nothing_is_lost_and_nothing_goes_out_twice_without_doubt() -> None:
    run_state_machine_as_test(Machine, settings=PLAY)


LONG = pytest.mark.skipif("EVERY_MODEL" not in os.environ, reason="it takes a minute: EVERY_MODEL=1")


class ByIds(Store):
    """Positions are the ids that a sequence gave, and one was rolled back."""

    def number(self, size: int) -> list[Hint]:
        hints = super().number(size)
        for place, entry in enumerate(self.log):
            entry.position = entry.position and place + 1 + (place > 5)
        return hints


class Forgetful(Pipeline):
    """The log is numbered, and there is no sweeper."""

    def catch_up(self) -> bool:
        self.notifier.cursor = self.store.head
        return True


class Hasty(Pipeline):
    """The cursor moves past what could not be handled."""

    def catch_up(self) -> bool:
        super().catch_up()
        self.notifier.cursor = self.store.head
        return True


class WithoutInbox(Notifier):
    """An event takes effect as often as it comes."""

    def may_take(self, event: int) -> bool:
        return event >= 0


class LastReadWins(Notifier):
    """A read mark is what the last event said, not a watermark."""

    def read(self, payload: Payload) -> None:
        super().read(payload)
        if payload.conversation is not None and payload.side is not None:
            self.marks[payload.conversation].read[payload.side] = payload.number


class WithoutTombstone(Notifier):
    """A deleted conversation leaves nothing that what comes late could find."""

    def deleted(self, payload: Payload) -> None:
        super().deleted(payload)
        del self.marks[payload.conversation or 0]


class LastWins(Notifier):
    """A person is what the last event said, however old it was."""

    def know(self, who: Who) -> bool:
        self.people[who.id] = who
        return True


class Sealed(Mailbox):
    """Messages join a mail that was composed already."""

    def is_open(self, mail: Mail) -> bool:
        return mail.state is EmailState.SCHEDULED


class SentThenMarked(Mailbox):
    """Nobody notes that a text is about to go out."""

    def begin(self, held: Held) -> bool:
        begun = super().begin(held)
        held.mail.begun = False
        return begun


class WithoutLease(Mailbox):
    """A holder does not look whether the mail is still its own."""

    def begin(self, held: Held) -> bool:
        held.begun = held.mail.begun = True
        return True


class Stubborn(Mailbox):
    """However often the answer is lost, the mail goes out again."""

    def claim(self) -> list[Held]:
        for mail in self.mails:
            mail.uncertain = 0
        return super().claim()


class Rash(Mailbox):
    """A mail is cancelled while its text is on its way."""

    def cancel(self, mail: Mail, reason: Reason, leaving: Collection[EmailState] = WAITING) -> None:
        self.move(mail, EmailState.CANCELLED, reason, leaving=leaving)


class Silent(Mailbox):
    """A mail that fails once is dropped."""

    def _is_due(self, mail: Mail) -> bool:
        return super()._is_due(mail) and not mail.counted


class Hurried(Mailbox):
    """A refusal is the mail's own fault, whoever else was refused."""

    def judge(self, held: Held, attempt: Attempt) -> Outcome:
        return attempt.own or super().judge(held, attempt)


class WithoutCaps(Mailbox):
    """An address gets whatever there is."""

    def wait(self, mailbox: str) -> float:
        return 0 * len(mailbox)


class CountsLate(Mailbox):
    """What another process is sending to an address is not counted yet."""

    def wait(self, mailbox: str) -> float:
        in_hand = [mail for mail in self.mails if mail.state is EmailState.SENDING]
        for mail in in_hand:
            mail.state = EmailState.SENT
        wait = super().wait(mailbox)
        for mail in in_hand:
            mail.state = EmailState.SENDING
        return wait


class CountsYes(Mailbox):
    """What may have arrived, and nobody said so, is not counted."""

    def wait(self, mailbox: str) -> float:
        tries = self.tries
        self.tries = [one for one in tries if one.outcome is Outcome.ACCEPTED]
        wait = super().wait(mailbox)
        self.tries = tries
        return wait


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Pipeline(store=ByIds),
        Forgetful,
        Hasty,
        lambda: Pipeline(notifier=WithoutInbox),
        lambda: Pipeline(notifier=LastReadWins),
        lambda: Pipeline(notifier=WithoutTombstone),
        lambda: Pipeline(notifier=LastWins),
        lambda: Pipeline(mailbox=Sealed),
        lambda: Pipeline(mailbox=SentThenMarked),
        lambda: Pipeline(mailbox=WithoutLease),
        lambda: Pipeline(mailbox=Stubborn),
        lambda: Pipeline(mailbox=Rash),
        lambda: Pipeline(mailbox=Silent),
        lambda: Pipeline(mailbox=Hurried),
        pytest.param(lambda: Pipeline(mailbox=WithoutCaps), marks=LONG),
        pytest.param(lambda: Pipeline(mailbox=CountsLate), marks=LONG),
        pytest.param(lambda: Pipeline(mailbox=CountsYes), marks=LONG),
    ],
)
@pytest.mark.timeout(600)  # some are found out late
def test_a_pipeline_that_breaks_a_promise_is_found_out(broken: Callable[[], Pipeline]) -> None:
    class Broken(Machine):
        def make_pipeline(self) -> Pipeline:
            return broken()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=FIND_OUT)
