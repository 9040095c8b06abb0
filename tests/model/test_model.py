"""The pipeline in memory keeps its guarantees, no matter what happens in which order.

The state machine can fail: it detects every deliberately broken pipeline.
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
from tests.model.store import Hint, Payload, Store, UserVersion

PLAY = settings(stateful_step_count=40, database=None)
pytestmark = pytest.mark.long
FIND_OUT = settings(
    PLAY,
    max_examples=3000,
    derandomize=True,  # so that every broken pipeline is always detected
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


@pytest.mark.timeout(600)  # a failing example is first shrunk
def test_nothing_is_lost_and_nothing_is_sent_twice_without_a_lost_reply() -> None:
    run_state_machine_as_test(Machine, settings=PLAY)


LONG = pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes a minute; set EVERY_CASE=1")


class ByIds(Store):
    """Positions are the values of a sequence, with a gap by a rollback."""

    def number(self, size: int) -> list[Hint]:
        hints = super().number(size)
        for index, entry in enumerate(self.log):
            entry.position = entry.position and index + 1 + (index > 5)
        return hints


class Forgetful(Pipeline):
    """There is no sweeper."""

    def catch_up(self) -> bool:
        self.notifier.cursor = self.store.head
        return True


class Hasty(Pipeline):
    """The cursor skips events that could not be handled."""

    def catch_up(self) -> bool:
        super().catch_up()
        self.notifier.cursor = self.store.head
        return True


class WithoutInbox(Notifier):
    """An event takes effect each time it arrives."""

    def may_take(self, event: int) -> bool:
        return event >= 0


class LastReadWins(Notifier):
    """The last read event wins, even with a lower number."""

    def read(self, payload: Payload) -> None:
        super().read(payload)
        if payload.conversation is not None and payload.side is not None:
            self.marks[payload.conversation].read[payload.side] = payload.number


class WithoutTombstone(Notifier):
    """A deleted conversation leaves no tombstone for late events."""

    def deleted(self, payload: Payload) -> None:
        super().deleted(payload)
        del self.marks[payload.conversation or 0]


class LastWins(Notifier):
    """The last version of a user to arrive wins, even an older one."""

    def know(self, update: UserVersion) -> bool:
        self.people[update.id] = update
        return True


class Sealed(Mailbox):
    """Messages join an email that was rendered already."""

    def is_open(self, mail: Mail) -> bool:
        return mail.state is EmailState.SCHEDULED


class SentThenMarked(Mailbox):
    """The beginning of sending is not recorded."""

    def begin(self, held: Held) -> bool:
        begun = super().begin(held)
        held.mail.begun = False
        return begun


class WithoutLease(Mailbox):
    """A holder does not check whether it still has the lease."""

    def begin(self, held: Held) -> bool:
        held.begun = held.mail.begun = True
        return True


class Stubborn(Mailbox):
    """An email is sent again after any number of lost replies."""

    def claim(self) -> list[Held]:
        for mail in self.mails:
            mail.uncertain = 0
        return super().claim()


class Rash(Mailbox):
    """An email is cancelled while its content is in flight."""

    def cancel(self, mail: Mail, reason: Reason, leaving: Collection[EmailState] = WAITING) -> None:
        self.move(mail, EmailState.CANCELLED, reason, leaving=leaving)


class Silent(Mailbox):
    """An email that fails once is dropped."""

    def _is_due(self, mail: Mail) -> bool:
        return super()._is_due(mail) and not mail.counted


class Hurried(Mailbox):
    """A refusal is always the email's own fault, even if others are refused too."""

    def judge(self, held: Held, attempt: Attempt) -> Outcome:
        return attempt.own or super().judge(held, attempt)


class WithoutCaps(Mailbox):
    """Addresses have no limits."""

    def wait(self, mailbox: str) -> float:
        return 0 * len(mailbox)


class CountsLate(Mailbox):
    """Emails in flight from other processes do not count towards the limit."""

    def wait(self, mailbox: str) -> float:
        in_hand = [mail for mail in self.mails if mail.state is EmailState.SENDING]
        for mail in in_hand:
            mail.state = EmailState.SENT
        wait = super().wait(mailbox)
        for mail in in_hand:
            mail.state = EmailState.SENDING
        return wait


class CountsYes(Mailbox):
    """Emails that may have arrived do not count towards the limit."""

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
@pytest.mark.timeout(600)  # some are detected late
def test_a_broken_pipeline_is_detected(broken: Callable[[], Pipeline]) -> None:
    class Broken(Machine):
        def make_pipeline(self) -> Pipeline:
            return broken()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=FIND_OUT)
