"""What is promised, said of a pipeline: at every moment, and once it has come to rest.

It is said from what was acknowledged and what took effect, not from how the pipeline goes about it.
"""

from collections import Counter, defaultdict
from itertools import pairwise

from services.conversations.rules import Side
from services.notifications.rules import MAX_UNCERTAIN_ATTEMPTS, TRANSITIONS, Audience, EmailState, Reason
from tests.model.mailbox import MAILS, Mail
from tests.model.pipeline import Pipeline
from tests.model.store import SECOND, Kind, Payload

ENDS = {EmailState.SENT, EmailState.FAILED, EmailState.CANCELLED, EmailState.SUPPRESSED}
AUDIENCE = {Side.ADMIN: Audience.CUSTOMER, Side.CUSTOMER: Audience.SUPPORT}


def check_always(pipeline: Pipeline) -> None:
    """Check what holds at every moment."""
    _positions_have_no_holes(pipeline)
    _the_cursor_passes_nothing(pipeline)
    _what_is_known_is_what_was_told(pipeline)
    _every_record_is_of_an_acknowledged_message(pipeline)
    _every_message_is_in_one_mail(pipeline)
    _no_address_gets_more_mails_than_it_may(pipeline)
    _a_mail_fails_for_a_policy_only_if_others_go_through(pipeline)
    for mail in pipeline.mails:
        _a_mail_goes_only_where_the_rules_lead(mail)
        _a_mail_is_repeated_only_when_its_answer_was_lost(mail)


def check_at_rest(pipeline: Pipeline) -> None:
    """Check that nothing is lost, once all was delivered and all due mail was tried."""
    store, notifier = pipeline.store, pipeline.notifier
    living = {number: talk for number, talk in enumerate(store.talks) if not talk.deleted}
    for place, entry in enumerate(store.log):
        if entry.kind is not Kind.OTHER and not notifier.inbox[place].handled:
            assert notifier.inbox[place].kept is None, "a parked event could not be retried"
            assert entry.conversation not in living, "an event of a conversation that is still there was given up on"
    assert notifier.cursor == store.head == len(store.log)
    assert notifier.people == store.users
    for number, talk in living.items():
        assert notifier.marks[number].read == talk.read, f"conversation {number} is read as far as its people have"

    messages = {message: side for message, side in store.acknowledged.items() if message[0] in living}
    assert set(notifier.records) == {message for message, side in messages.items() if side is Side.ADMIN}
    for (conversation, number), side in messages.items():
        [mail] = [one for one in notifier.mailbox.about(conversation, AUDIENCE[side]) if number in one.lines]
        _what_was_to_be_said_was_said(pipeline, mail, number)
    assert {mail.state for mail in pipeline.mails} <= ENDS, "a mail disappeared"


def _positions_have_no_holes(pipeline: Pipeline) -> None:
    given = [entry.position for entry in pipeline.store.log]
    numbered = [position for position in given if position is not None]
    assert given == [*range(1, len(numbered) + 1), *[None] * (len(given) - len(numbered))]


def _the_cursor_passes_nothing(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    done = {event for event, entry in notifier.inbox.items() if entry.done}
    passed = enumerate(pipeline.store.log[: notifier.cursor])
    assert {place for place, entry in passed if entry.kind is not Kind.OTHER} <= done


def _told(pipeline: Pipeline, *kinds: Kind) -> list[Payload]:
    effects = [entry.effect for entry in pipeline.notifier.inbox.values() if entry.handled]
    return [effect for effect in effects if effect is not None and (not kinds or effect.kind in kinds)]


def _what_is_known_is_what_was_told(pipeline: Pipeline) -> None:
    """Whatever came in whatever order: watermarks, tombstones and versions are the same."""
    read = dict[tuple[int | None, Side | None], int]()
    for told in _told(pipeline, Kind.READ):
        key = told.conversation, told.side
        read[key] = max(told.number, read.get(key, 0))
    gone = {told.conversation for told in _told(pipeline, Kind.DELETED)}
    for number in range(len(pipeline.store.talks)):
        mark = pipeline.notifier.marks[number]
        assert mark.deleted == (number in gone)
        assert mark.read == {side: read.get((number, side), 0) for side in Side}
    newest = dict[str, int]()
    for told in _told(pipeline):
        for who in told.people:
            newest[who.id] = max(who.version, newest.get(who.id, 0))
    assert {who.id: who.version for who in pipeline.notifier.people.values()} == newest


def _every_record_is_of_an_acknowledged_message(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    posted = {(told.conversation, told.number) for told in _told(pipeline, Kind.POSTED) if told.side is Side.ADMIN}
    there = {message for message in notifier.records if pipeline.store.acknowledged.get(message) is Side.ADMIN}
    assert set(notifier.records) == there
    assert there == {message for message in posted if not notifier.marks[message[0] or 0].deleted}
    for (conversation, number), record in notifier.records.items():
        assert record.read or number > notifier.marks[conversation].read[Side.CUSTOMER]


def _every_message_is_in_one_mail(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    posted = {
        (AUDIENCE[told.side], told.conversation, told.number): 1
        for told in _told(pipeline, Kind.POSTED)
        if told.side is not None and told.conversation is not None and not notifier.marks[told.conversation].deleted
    }
    mailed = Counter((mail.audience, mail.conversation, number) for mail in pipeline.mails for number in mail.lines)
    assert mailed == posted
    assert all(mail.lines or notifier.marks[mail.conversation].deleted for mail in pipeline.mails), "an empty mail"
    still_open = Counter(
        (mail.audience, mail.conversation) for mail in pipeline.mails if notifier.mailbox.is_open(mail)
    )
    assert not still_open or max(still_open.values()) == 1, "two open mails about one conversation"


def _no_address_gets_more_mails_than_it_may(pipeline: Pipeline) -> None:
    """In no 10 minutes and in no day, by when their text went out; but for those of people who were erased since."""
    times = defaultdict[str, list[int]](list)
    for arrived in pipeline.arrivals:
        if arrived.mail.address is not None:
            times[arrived.address.lower()].append(arrived.begun_at)
    for mailbox, got in times.items():
        got.sort()
        for most, seconds in zip(MAILS, (600, 86_400), strict=True):
            first_and_one_too_many = zip(got, got[most:], strict=False)
            assert all(late - early >= seconds * SECOND for early, late in first_and_one_too_many), mailbox


def _a_mail_fails_for_a_policy_only_if_others_go_through(pipeline: Pipeline) -> None:
    """A relay that is denied fails no mail; a policy fails one only if the server took another since it said so."""
    for mail in pipeline.mails:
        if mail.state is not EmailState.FAILED or mail.reason is not Reason.REJECTED:
            continue
        said = [(reply, one is mail) for one, reply in pipeline.replies]
        mine = [place for place, (reply, own) in enumerate(said) if own and reply in {"policy", "never"}]
        assert mine, "nobody refused it"
        if said[mine[-1]][0] == "policy":
            assert ("taken", False) in said[mine[0] : mine[-1]], "failed, and no other went through"


def _a_mail_goes_only_where_the_rules_lead(mail: Mail) -> None:
    assert mail.state is mail.history[-1]
    assert all(new in TRANSITIONS[old] for old, new in pairwise(mail.history)), mail.history


def _a_mail_is_repeated_only_when_its_answer_was_lost(mail: Mail) -> None:
    times, most = len(mail.received), MAX_UNCERTAIN_ATTEMPTS * (1 + mail.by_hand)
    assert times <= most, "a third time"
    assert mail.doubts < most or mail.state is not EmailState.SCHEDULED, "in doubt twice, and it would go out again"
    assert times <= 1 or mail.doubts, "twice, and no answer was lost"
    assert len(set(mail.received)) <= 1, "the same mail says something else"
    if mail.state is EmailState.SENT:
        assert times, "said to be sent, and nobody has it"
    elif not mail.begun:
        assert not times or mail.doubts, f"{mail.state}, and the server has it"


def _what_was_to_be_said_was_said(pipeline: Pipeline, mail: Mail, number: int) -> None:
    audience = mail.audience
    read = pipeline.notifier.is_read(audience, mail.conversation, number)
    match mail.state, mail.reason:
        case EmailState.SENT, _:
            assert number in mail.received[0] or read, "left out of its mail, and not read"
        case EmailState.CANCELLED, Reason.READ:
            assert read
        case (
            (EmailState.CANCELLED | EmailState.SUPPRESSED),
            (Reason.USER_DELETED | Reason.NO_ADDRESS | Reason.OWN_ADDRESS),
        ):
            assert audience is Audience.CUSTOMER
        case state, _:
            assert state is EmailState.FAILED, f"message {number} waits in a mail that is {state}"
