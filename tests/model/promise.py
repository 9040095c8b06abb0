"""The pipeline's guarantees: at every moment, and once it has come to rest.

They are derived from acknowledged requests and applied events, not from how the pipeline works.
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
    """Check the guarantees that hold at every moment."""
    _positions_have_no_gaps(pipeline)
    _the_cursor_skips_nothing(pipeline)
    _the_state_follows_from_the_applied_events(pipeline)
    _every_notification_is_of_an_acknowledged_message(pipeline)
    _every_message_is_in_one_email(pipeline)
    _no_address_gets_more_emails_than_allowed(pipeline)
    _an_email_fails_for_a_policy_only_if_others_are_accepted(pipeline)
    for mail in pipeline.mails:
        _an_email_follows_the_allowed_transitions(mail)
        _an_email_is_repeated_only_after_a_lost_reply(mail)


def check_at_rest(pipeline: Pipeline) -> None:
    """Check that nothing is lost after everything was delivered and every due email attempted."""
    store, notifier = pipeline.store, pipeline.notifier
    living = {number: talk for number, talk in enumerate(store.talks) if not talk.deleted}
    for index, entry in enumerate(store.log):
        if entry.is_relevant and not notifier.inbox[index].handled:
            assert notifier.inbox[index].kept is None, "a parked event could not be retried"
            assert entry.conversation not in living, "an event of an existing conversation stayed parked"
    assert notifier.cursor == store.head == len(store.log)
    assert notifier.people == store.users
    for number, talk in living.items():
        assert notifier.marks[number].read == talk.read, f"conversation {number} has other read numbers"

    messages = {message: side for message, side in store.acknowledged.items() if message[0] in living}
    assert set(notifier.records) == {message for message, side in messages.items() if side is Side.ADMIN}
    for (conversation, number), side in messages.items():
        [mail] = [
            candidate for candidate in notifier.mailbox.about(conversation, AUDIENCE[side]) if number in candidate.lines
        ]
        _a_message_was_emailed_or_needed_no_email(pipeline, mail, number)
    assert {mail.state for mail in pipeline.mails} <= ENDS, "an email is not finished"


def _positions_have_no_gaps(pipeline: Pipeline) -> None:
    given = [entry.position for entry in pipeline.store.log]
    numbered = [position for position in given if position is not None]
    assert given == [*range(1, len(numbered) + 1), *[None] * (len(given) - len(numbered))]


def _the_cursor_skips_nothing(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    done = {event for event, entry in notifier.inbox.items() if entry.done}
    passed = enumerate(pipeline.store.log[: notifier.cursor])
    assert {index for index, entry in passed if entry.is_relevant} <= done


def _effects(pipeline: Pipeline, *kinds: Kind) -> list[Payload]:
    effects = [entry.effect for entry in pipeline.notifier.inbox.values() if entry.handled]
    return [effect for effect in effects if effect is not None and (not kinds or effect.kind in kinds)]


def _the_state_follows_from_the_applied_events(pipeline: Pipeline) -> None:
    """Read numbers, tombstones and versions do not depend on the order of events."""
    read = dict[tuple[int | None, Side | None], int]()
    for effect in _effects(pipeline, Kind.READ):
        key = effect.conversation, effect.side
        read[key] = max(effect.number, read.get(key, 0))
    gone = {effect.conversation for effect in _effects(pipeline, Kind.DELETED)}
    for number in range(len(pipeline.store.talks)):
        mark = pipeline.notifier.marks[number]
        assert mark.deleted == (number in gone)
        assert mark.read == {side: read.get((number, side), 0) for side in Side}
    newest = dict[str, int]()
    for effect in _effects(pipeline):
        for person in effect.people:
            newest[person.id] = max(person.version, newest.get(person.id, 0))
    assert {person.id: person.version for person in pipeline.notifier.people.values()} == newest


def _every_notification_is_of_an_acknowledged_message(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    posted = {
        (effect.conversation, effect.number) for effect in _effects(pipeline, Kind.POSTED) if effect.side is Side.ADMIN
    }
    there = {message for message in notifier.records if pipeline.store.acknowledged.get(message) is Side.ADMIN}
    assert set(notifier.records) == there
    assert there == {message for message in posted if not notifier.marks[message[0] or 0].deleted}
    for (conversation, number), record in notifier.records.items():
        assert record.read or number > notifier.marks[conversation].read[Side.CUSTOMER]


def _every_message_is_in_one_email(pipeline: Pipeline) -> None:
    notifier = pipeline.notifier
    posted = {
        (AUDIENCE[effect.side], effect.conversation, effect.number): 1
        for effect in _effects(pipeline, Kind.POSTED)
        if effect.side is not None
        and effect.conversation is not None
        and not notifier.marks[effect.conversation].deleted
    }
    mailed = Counter((mail.audience, mail.conversation, number) for mail in pipeline.mails for number in mail.lines)
    assert mailed == posted
    assert all(mail.lines or notifier.marks[mail.conversation].deleted for mail in pipeline.mails), "an empty email"
    still_open = Counter(
        (mail.audience, mail.conversation) for mail in pipeline.mails if notifier.mailbox.is_open(mail)
    )
    assert not still_open or max(still_open.values()) == 1, "two open emails about one conversation"


def _no_address_gets_more_emails_than_allowed(pipeline: Pipeline) -> None:
    """Check every 10 minutes and every day, by when contents were sent, except to users who were erased since."""
    times = defaultdict[str, list[int]](list)
    for arrived in pipeline.arrivals:
        if arrived.mail.address is not None:
            times[arrived.address.lower()].append(arrived.begun_at)
    for mailbox, got in times.items():
        got.sort()
        for most, seconds in zip(MAILS, (600, 86_400), strict=True):
            first_and_one_too_many = zip(got, got[most:], strict=False)
            assert all(late - early >= seconds * SECOND for early, late in first_and_one_too_many), mailbox


def _an_email_fails_for_a_policy_only_if_others_are_accepted(pipeline: Pipeline) -> None:
    """Denied relaying fails no email; a policy fails one only if the server accepted another one in between."""
    for mail in pipeline.mails:
        if mail.state is not EmailState.FAILED or mail.reason is not Reason.REJECTED:
            continue
        said = [(reply, one is mail) for one, reply in pipeline.replies]
        mine = [index for index, (reply, own) in enumerate(said) if own and reply in {"policy", "never"}]
        assert mine, "it was not refused"
        if said[mine[-1]][0] == "policy":
            assert ("taken", False) in said[mine[0] : mine[-1]], "failed, but no other email was accepted"


def _an_email_follows_the_allowed_transitions(mail: Mail) -> None:
    assert mail.state is mail.history[-1]
    assert all(new in TRANSITIONS[old] for old, new in pairwise(mail.history)), mail.history


def _an_email_is_repeated_only_after_a_lost_reply(mail: Mail) -> None:
    times, most = len(mail.received), MAX_UNCERTAIN_ATTEMPTS * (1 + mail.by_hand)
    assert times <= most, "sent a third time"
    assert mail.doubts < most or mail.state is not EmailState.SCHEDULED, "uncertain twice, but scheduled again"
    assert times <= 1 or mail.doubts, "sent twice without a lost reply"
    assert len(set(mail.received)) <= 1, "a repetition with other content"
    if mail.state is EmailState.SENT:
        assert times, "recorded as sent, but not received"
    elif not mail.begun:
        assert not times or mail.doubts, f"{mail.state}, but received by the server"


def _a_message_was_emailed_or_needed_no_email(pipeline: Pipeline, mail: Mail, number: int) -> None:
    audience = mail.audience
    read = pipeline.notifier.is_read(audience, mail.conversation, number)
    match mail.state, mail.reason:
        case EmailState.SENT, _:
            assert number in mail.received[0] or read, "left out of its email, but not read"
        case EmailState.CANCELLED, Reason.READ:
            assert read
        case (
            (EmailState.CANCELLED | EmailState.SUPPRESSED),
            (Reason.USER_DELETED | Reason.NO_ADDRESS | Reason.OWN_ADDRESS),
        ):
            assert audience is Audience.CUSTOMER
        case state, _:
            assert state is EmailState.FAILED, f"message {number} waits in an email that is {state}"
