from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifications.rules import (
    GIVE_UP_AFTER,
    RECHECK_DELAY,
    REFUSED_DELAY,
    TRANSITIONS,
    EmailLimit,
    EmailState,
    Outcome,
    Reason,
    RetryDecision,
    breaker_pause,
    check_transition,
    email_limits,
    next_step,
    retry_delays,
    seconds_until_allowed,
    with_evidence,
    with_jitter,
)

DEFAULT_SCHEDULE = (60, 300, 900, 1800, 3600, 7200)
DELAYS = retry_delays(DEFAULT_SCHEDULE)
FINAL = {EmailState.SENT, EmailState.CANCELLED, EmailState.SUPPRESSED}


def follow_up(outcome: Outcome, counted: int = 0, uncertain: int = 0) -> RetryDecision:
    return next_step(outcome, counted=counted, uncertain=uncertain, delays=DELAYS, uncertain_delay=900)


@pytest.mark.parametrize(("old", "new"), list(product(EmailState, EmailState)))
def test_only_transitions_of_the_table_are_allowed(old: EmailState, new: EmailState) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            check_transition(old, new)


def test_the_table_names_every_state_and_only_final_states_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(EmailState)
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL


def test_only_an_email_that_was_leased_is_sent_and_nothing_stays_where_it_is() -> None:
    before_sent = {old for old in EmailState if EmailState.SENT in TRANSITIONS[old]}
    assert before_sent == {EmailState.SENDING, EmailState.SCHEDULED}
    assert not [state for state in EmailState if state in TRANSITIONS[state]]


@pytest.mark.parametrize(
    ("outcome", "counted", "uncertain"),
    list(product(Outcome, (0, 1, len(DELAYS) - 1, len(DELAYS), len(DELAYS) + 1), (0, 1, 2))),
)
def test_every_follow_up_is_allowed_and_whole(outcome: Outcome, counted: int, uncertain: int) -> None:
    after = follow_up(outcome, counted, uncertain)
    if after.state is None:
        assert outcome is Outcome.ABANDONED
    else:
        check_transition(EmailState.SENDING, after.state)
    assert (after.delay is not None) == (after.state is EmailState.SCHEDULED)
    assert (after.reason is not None) == (after.state is EmailState.FAILED)
    of_set_up = {Outcome.MISCONFIGURED, Outcome.BUSY, Outcome.REFUSED}
    assert after.opens_breaker == (outcome in of_set_up)
    assert after.counts == (outcome not in of_set_up | {Outcome.ABANDONED})


def test_an_accepted_mail_is_sent_and_a_rejected_one_failed() -> None:
    assert follow_up(Outcome.ACCEPTED) == RetryDecision(EmailState.SENT)
    assert follow_up(Outcome.REJECTED) == RetryDecision(EmailState.FAILED, reason=Reason.REJECTED)


def test_a_rejection_keeps_its_own_reason() -> None:
    after = next_step(
        Outcome.REJECTED,
        counted=0,
        uncertain=0,
        delays=DELAYS,
        uncertain_delay=900,
        rejection=Reason.ADDRESS_NOT_SUPPORTED,
    )
    assert after.reason is Reason.ADDRESS_NOT_SUPPORTED


def test_a_deferred_mail_follows_the_schedule_to_its_end_and_then_fails() -> None:
    attempts = [follow_up(Outcome.DEFERRED, counted) for counted in range(len(DELAYS) + 1)]
    assert tuple(after.delay for after in attempts[:-1]) == DELAYS
    assert attempts[-1] == RetryDecision(EmailState.FAILED, reason=Reason.GAVE_UP)


def test_an_uncertain_mail_is_sent_once_more_and_then_fails() -> None:
    assert follow_up(Outcome.UNCERTAIN) == RetryDecision(EmailState.SCHEDULED, delay=900)
    assert follow_up(Outcome.UNCERTAIN, counted=1, uncertain=1).reason is Reason.UNCERTAIN
    assert follow_up(Outcome.UNCERTAIN, counted=len(DELAYS)).state is EmailState.SCHEDULED


def test_a_fault_of_the_set_up_costs_the_mail_nothing_however_often() -> None:
    for counted in (0, len(DELAYS) + 1):
        for outcome, delay in ((Outcome.MISCONFIGURED, 0), (Outcome.BUSY, 0), (Outcome.REFUSED, REFUSED_DELAY)):
            after = follow_up(outcome, counted)
            assert (after.state, after.delay, after.counts) == (EmailState.SCHEDULED, delay, False)


@pytest.mark.parametrize("own", [Outcome.REJECTED, Outcome.DEFERRED, None])
@pytest.mark.parametrize(("suspected", "setup_works"), list(product([True, False], repeat=2)))
def test_a_refusal_is_the_mails_own_only_when_it_comes_again_while_others_go_through(
    own: Outcome | None, *, suspected: bool, setup_works: bool
) -> None:
    judged = with_evidence(Outcome.REFUSED, own, suspected=suspected, setup_works=setup_works)
    assert judged is (own if own and suspected and setup_works else Outcome.REFUSED)


def test_the_default_schedule_ends_within_three_days_and_one_more_delay_would_not() -> None:
    assert DELAYS[:6] == DEFAULT_SCHEDULE
    assert set(DELAYS[6:]) == {14400}
    assert sum(DELAYS) <= GIVE_UP_AFTER < sum(DELAYS) + 14400


def test_a_schedule_longer_than_the_limit_is_kept_as_written() -> None:
    assert retry_delays([100, 100], then_every=10, give_up_after=150) == (100, 100)
    assert retry_delays([], then_every=10, give_up_after=30) == (10, 10, 10)


@pytest.mark.parametrize(("schedule", "then_every"), [([-1], 10), ([1], 0)])
def test_a_schedule_that_would_not_move_is_refused(schedule: list[int], then_every: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        retry_delays(schedule, then_every)


@given(st.integers(0, GIVE_UP_AFTER), st.floats(0, 1))
def test_jitter_is_never_early_and_at_most_a_tenth(delay: int, chance: float) -> None:
    assert delay <= with_jitter(delay, lambda: chance) <= delay * 1.1 + 1e-6


@pytest.mark.parametrize(
    ("outcome", "first"),
    [
        (Outcome.MISCONFIGURED, [15, 30, 60, 120, 240, 300]),
        (Outcome.BUSY, [15, 30, 60, 60, 60, 60]),
        (Outcome.REFUSED, [2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_breaker_pauses_longer_each_time_up_to_a_minute_or_five(outcome: Outcome, first: list[int]) -> None:
    pauses = [breaker_pause(outcome, trips) for trips in range(1, 2000)]
    assert pauses[:6] == first
    assert all(earlier <= later for earlier, later in pairwise(pauses))
    assert pauses[-1] == (60 if outcome is Outcome.BUSY else 300)


def test_a_cap_of_0_is_none() -> None:
    assert email_limits(0, 0) == ()
    assert email_limits(10, 0) == (EmailLimit(10, 600),)
    assert email_limits(0, 100) == (EmailLimit(100, 86_400),)
    assert seconds_until_allowed((), [0.0] * 1000, 1000) == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=2), st.lists(st.integers(0, 700), max_size=30))
def test_an_address_gets_all_that_the_caps_allow_and_no_more(most: list[int], pauses: list[int]) -> None:
    caps = [EmailLimit(number, seconds) for number, seconds in zip(most, (600, 3600), strict=False)]
    now, got = 0.0, list[float]()
    for pause in pauses:
        now += pause
        wait = seconds_until_allowed(caps, [now - moment for moment in reversed(got)], 0)
        now += wait
        got.append(now)
        for cap in caps:
            assert sum(moment > now - cap.seconds for moment in got) <= cap.max_emails, "too many"
        early = [
            moment
            for cap in caps
            for moment in got[-cap.max_emails - 1 : -cap.max_emails]
            if now - moment == cap.seconds
        ]
        assert not wait or early, "not as soon as there is room"


def test_what_is_on_its_way_takes_room_and_is_waited_for_no_longer_than_it_may_take() -> None:
    caps = email_limits(2, 0)
    assert seconds_until_allowed(caps, [5], 0) == seconds_until_allowed(caps, [], 1) == 0
    assert seconds_until_allowed(caps, [5], 1) == seconds_until_allowed(caps, [], 2) == RECHECK_DELAY
    assert seconds_until_allowed(caps, [590, 595], 1) == 10
    assert seconds_until_allowed(caps, [5, 10], 0) == 590


def test_of_what_an_address_got_only_as_much_as_the_cap_has_to_be_known() -> None:
    ages = [float(age) for age in range(100)]
    assert (
        seconds_until_allowed(email_limits(10, 0), ages, 0)
        == seconds_until_allowed(email_limits(10, 0), ages[:10], 0)
        == 591
    )
