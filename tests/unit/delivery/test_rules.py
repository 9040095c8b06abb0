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
FINAL = {EmailState.CANCELLED, EmailState.SUPPRESSED}
NO_RESULT = {Outcome.ABANDONED, Outcome.BOUNCED, Outcome.COMPLAINED}  # a report is the end of no attempt


def decide(outcome: Outcome, counted: int = 0, uncertain: int = 0) -> RetryDecision:
    return next_step(outcome, counted=counted, uncertain=uncertain, delays=DELAYS, uncertain_delay=900)


@pytest.mark.parametrize(("old", "new"), list(product(EmailState, EmailState)))
def test_only_transitions_in_the_table_are_allowed(old: EmailState, new: EmailState) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            check_transition(old, new)


def test_the_table_has_every_state_and_only_final_states_have_no_successor() -> None:
    assert set(TRANSITIONS) == set(EmailState)
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL


def test_only_a_leased_email_becomes_sent_and_no_state_leads_to_itself() -> None:
    before_sent = {old for old in EmailState if EmailState.SENT in TRANSITIONS[old]}
    assert before_sent == {EmailState.SENDING, EmailState.SCHEDULED}
    assert not [state for state in EmailState if state in TRANSITIONS[state]]


@pytest.mark.parametrize(
    ("outcome", "counted", "uncertain"),
    list(product(Outcome, (0, 1, len(DELAYS) - 1, len(DELAYS), len(DELAYS) + 1), (0, 1, 2))),
)
def test_every_retry_decision_is_an_allowed_transition_and_complete(
    outcome: Outcome, counted: int, uncertain: int
) -> None:
    decision = decide(outcome, counted, uncertain)
    if decision.state is None:
        assert outcome in NO_RESULT
    else:
        check_transition(EmailState.SENDING, decision.state)
    assert (decision.delay is not None) == (decision.state is EmailState.SCHEDULED)
    assert (decision.reason is not None) == (decision.state is EmailState.FAILED)
    setup_faults = {Outcome.MISCONFIGURED, Outcome.BUSY, Outcome.REFUSED}
    assert decision.opens_breaker == (outcome in setup_faults)
    assert decision.counts == (outcome not in setup_faults | NO_RESULT)


def test_an_accepted_email_is_sent_and_a_rejected_one_has_failed() -> None:
    assert decide(Outcome.ACCEPTED) == RetryDecision(EmailState.SENT)
    assert decide(Outcome.REJECTED) == RetryDecision(EmailState.FAILED, reason=Reason.REJECTED)


def test_a_rejection_keeps_its_specific_reason() -> None:
    decision = next_step(
        Outcome.REJECTED,
        counted=0,
        uncertain=0,
        delays=DELAYS,
        uncertain_delay=900,
        rejection=Reason.ADDRESS_NOT_SUPPORTED,
    )
    assert decision.reason is Reason.ADDRESS_NOT_SUPPORTED


def test_a_deferred_email_follows_the_schedule_to_its_end_and_then_fails() -> None:
    attempts = [decide(Outcome.DEFERRED, counted) for counted in range(len(DELAYS) + 1)]
    assert tuple(decision.delay for decision in attempts[:-1]) == DELAYS
    assert attempts[-1] == RetryDecision(EmailState.FAILED, reason=Reason.GAVE_UP)


def test_an_uncertain_email_is_sent_once_more_and_then_fails() -> None:
    assert decide(Outcome.UNCERTAIN) == RetryDecision(EmailState.SCHEDULED, delay=900)
    assert decide(Outcome.UNCERTAIN, counted=1, uncertain=1).reason is Reason.UNCERTAIN
    assert decide(Outcome.UNCERTAIN, counted=len(DELAYS)).state is EmailState.SCHEDULED


def test_a_setup_fault_never_counts_as_an_attempt_of_the_email() -> None:
    for counted in (0, len(DELAYS) + 1):
        for outcome, delay in ((Outcome.MISCONFIGURED, 0), (Outcome.BUSY, 0), (Outcome.REFUSED, REFUSED_DELAY)):
            decision = decide(outcome, counted)
            assert (decision.state, decision.delay, decision.counts) == (EmailState.SCHEDULED, delay, False)


def test_a_busy_server_that_serves_other_emails_pauses_only_this_one() -> None:
    decision = next_step(
        Outcome.BUSY, counted=len(DELAYS), uncertain=0, delays=DELAYS, uncertain_delay=900, serves_others=True
    )
    assert decision == RetryDecision(EmailState.SCHEDULED, delay=REFUSED_DELAY, counts=False)


@pytest.mark.parametrize("own", [Outcome.REJECTED, Outcome.DEFERRED, None])
@pytest.mark.parametrize(("suspected", "setup_works"), list(product([True, False], repeat=2)))
def test_a_refusal_is_specific_to_an_email_only_when_it_repeats_while_other_emails_are_accepted(
    own: Outcome | None, *, suspected: bool, setup_works: bool
) -> None:
    outcome = with_evidence(Outcome.REFUSED, own, suspected=suspected, setup_works=setup_works)
    assert outcome is (own if own and suspected and setup_works else Outcome.REFUSED)


def test_the_default_schedule_ends_within_three_days_and_one_more_delay_would_exceed_them() -> None:
    assert DELAYS[:6] == DEFAULT_SCHEDULE
    assert set(DELAYS[6:]) == {14400}
    assert sum(DELAYS) <= GIVE_UP_AFTER < sum(DELAYS) + 14400


def test_a_schedule_longer_than_the_limit_is_kept_as_written() -> None:
    assert retry_delays([100, 100], then_every=10, give_up_after=150) == (100, 100)
    assert retry_delays([], then_every=10, give_up_after=30) == (10, 10, 10)


@pytest.mark.parametrize(("schedule", "then_every"), [([-1], 10), ([1], 0)])
def test_a_schedule_with_a_negative_or_endless_delay_is_rejected(schedule: list[int], then_every: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        retry_delays(schedule, then_every)


@given(st.integers(0, GIVE_UP_AFTER), st.floats(0, 1))
def test_jitter_is_never_early_and_adds_at_most_a_tenth(delay: int, chance: float) -> None:
    assert delay <= with_jitter(delay, lambda: chance) <= delay * 1.1 + 1e-6


@pytest.mark.parametrize(
    ("outcome", "first"),
    [
        (Outcome.MISCONFIGURED, [15, 30, 60, 120, 240, 300]),
        (Outcome.BUSY, [15, 30, 60, 60, 60, 60]),
        (Outcome.REFUSED, [2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_breaker_pauses_longer_each_time_up_to_one_or_five_minutes(outcome: Outcome, first: list[int]) -> None:
    pauses = [breaker_pause(outcome, trips) for trips in range(1, 2000)]
    assert pauses[:6] == first
    assert all(earlier <= later for earlier, later in pairwise(pauses))
    assert pauses[-1] == (60 if outcome is Outcome.BUSY else 300)


def test_a_limit_of_0_is_no_limit() -> None:
    assert email_limits(0, 0) == ()
    assert email_limits(10, 0) == (EmailLimit(10, 600),)
    assert email_limits(0, 100) == (EmailLimit(100, 86_400),)
    assert seconds_until_allowed((), [0.0] * 1000, 1000) == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=2), st.lists(st.integers(0, 700), max_size=30))
def test_an_address_gets_all_emails_that_the_limits_allow_and_no_more(max_emails: list[int], pauses: list[int]) -> None:
    limits = [EmailLimit(number, seconds) for number, seconds in zip(max_emails, (600, 3600), strict=False)]
    now, sent_at = 0.0, list[float]()
    for pause in pauses:
        now += pause
        wait = seconds_until_allowed(limits, [now - moment for moment in reversed(sent_at)], 0)
        now += wait
        sent_at.append(now)
        for limit in limits:
            assert sum(moment > now - limit.seconds for moment in sent_at) <= limit.max_emails, "too many"
        early = [
            moment
            for limit in limits
            for moment in sent_at[-limit.max_emails - 1 : -limit.max_emails]
            if now - moment == limit.seconds
        ]
        assert not wait or early, "not as soon as the limits allow"


def test_emails_in_flight_count_towards_the_limit_and_are_waited_for_no_longer_than_necessary() -> None:
    limits = email_limits(2, 0)
    assert seconds_until_allowed(limits, [5], 0) == seconds_until_allowed(limits, [], 1) == 0
    assert seconds_until_allowed(limits, [5], 1) == seconds_until_allowed(limits, [], 2) == RECHECK_DELAY
    assert seconds_until_allowed(limits, [590, 595], 1) == 10
    assert seconds_until_allowed(limits, [5, 10], 0) == 590


def test_only_as_many_recent_emails_as_the_limit_allows_are_needed() -> None:
    ages = [float(age) for age in range(100)]
    assert (
        seconds_until_allowed(email_limits(10, 0), ages, 0)
        == seconds_until_allowed(email_limits(10, 0), ages[:10], 0)
        == 591
    )
