"""Record what attempts led to: states, retries, the breaker of each webhook, and what follows in each line."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import structlog

from services.conversations.rules import DeliveryState, WebhookError, WebhookOff
from services.conversations.webhooks.outbox import Line, advance_lines
from shared.database.engine import Driver
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.process.failpoints import failpoint

if TYPE_CHECKING:  # processes that show or count results load no HTTP client
    from services.conversations.webhooks.sending import Outcome

BREAKER_AFTER: Final = 10  # failed attempts in a row
BREAKER_FIRST: Final = 5.0  # seconds without an attempt, doubled each time …
BREAKER_MOST: Final = 300.0  # … up to this
DISABLE_DAYS: Final = 5.0  # without a success, after which a webhook that fails is disabled

log = structlog.get_logger()


class Claimed(NamedTuple):
    """A delivery that this process sends."""

    id: int
    webhook_id: UUID
    lane: int
    conversation_id: UUID | None
    message_id: UUID | None
    attempts: int


class Recorded(NamedTuple):
    """Whether this process still holds the lease, and the webhooks that get nothing more for now."""

    kept: bool
    stopped: frozenset[UUID] = frozenset()


class Result(NamedTuple):
    """The outcome of a delivery; None if its conversation is gone, so that it was not sent."""

    delivery: Claimed
    outcome: "Outcome | None"


async def record_results(
    sessions: SessionFactory, holder: UUID, results: Sequence[Result], schedule: Sequence[float]
) -> Recorded:
    """Record outcomes. Without the lease, nothing is written: the process that holds it sends these again."""
    stopped: set[UUID] = set()
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        if await driver.fetchval(_LOCK, holder) is None:
            return Recorded(kept=False)
        rows = [_row(result, schedule) for result in await _without_erased_text(driver, results)]
        # Only those that were answered before can have an answer that is erased at the same moment: in the same order.
        if again := [result.delivery.id for result in results if result.delivery.attempts]:
            await driver.execute(_LOCK_ROWS, again)
        await driver.execute(_RECORD, *(list(column) for column in zip(*rows, strict=True)))
        await advance_lines(
            driver,
            [
                Line(*result.delivery[1:3], result.delivery.conversation_id)
                for result, row in zip(results, rows, strict=True)
                if row[1] != DeliveryState.PENDING and result.delivery.conversation_id is not None
            ],
        )
        if verdicts := _verdicts(results):
            columns = [list(column) for column in zip(*verdicts, strict=True)]
            for webhook in await driver.fetch(_JUDGE, *columns, DISABLE_DAYS):
                if webhook["has_stopped"]:
                    stopped.add(webhook["id"])
                if webhook["off"]:
                    log.error("webhook disabled", webhook_id=str(webhook["id"]), reason=webhook["disabled_reason"])
        failpoint("webhooks-recorded")
    failpoint("webhooks-done")
    return Recorded(kept=True, stopped=frozenset(stopped))


async def _without_erased_text(driver: Driver, results: Sequence[Result]) -> Sequence[Result]:
    """Return the results without what was answered about conversations and messages that were erased meanwhile.

    The others are locked: their deletion or removal, which erases answers, comes after these.
    """
    answered = [result.delivery for result in results if result.outcome and result.outcome.response]
    if not answered:
        return results
    kept: set[UUID | None] = {None}
    conversations, messages = {each.conversation_id for each in answered}, {each.message_id for each in answered}
    for query, ids in ((_ALIVE, conversations), (_SHOWN, messages)):
        kept |= {row["id"] for row in await driver.fetch(query, list(ids - {None}))}
    return [
        result
        if result.outcome is None or {result.delivery.conversation_id, result.delivery.message_id} <= kept
        else result._replace(outcome=replace(result.outcome, response=None))
        for result in results
    ]


def _row(
    result: Result, schedule: Sequence[float]
) -> tuple[int, DeliveryState, int | None, str | None, str | None, int | None, float | None]:
    """Return a delivery's new state, what is kept of its outcome, and the seconds until the next attempt."""
    delivery, outcome = result
    if outcome is None:
        return delivery.id, DeliveryState.DROPPED, None, None, None, None, None
    kept = (outcome.status, outcome.error, outcome.response, outcome.duration_ms)
    if outcome.error is None:
        return delivery.id, DeliveryState.DELIVERED, *kept, None
    attempts = delivery.attempts + 1
    if attempts >= len(schedule):
        return delivery.id, DeliveryState.FAILED, *kept, None
    return delivery.id, DeliveryState.PENDING, *kept, max(schedule[attempts], outcome.retry_after)


def _verdicts(results: Sequence[Result]) -> list[tuple[UUID, bool, int, bool]]:
    """Return of each webhook whether anything succeeded, how many attempts failed, and whether it is gone."""
    outcomes: dict[UUID, list[Outcome]] = defaultdict(list)
    for delivery, outcome in results:
        if outcome is not None:
            outcomes[delivery.webhook_id].append(outcome)
    return [
        (
            webhook_id,
            any(outcome.error is None for outcome in made),
            sum(outcome.error is not None for outcome in made),
            any(outcome.error is WebhookError.GONE for outcome in made),
        )
        for webhook_id, made in outcomes.items()
    ]


_LOCK: Final = "select 1 from webhook_progress where holder = $1 for update"
_ALIVE: Final = "select id from conversations where id = any($1::uuid[]) order by id for key share"
_SHOWN: Final = "select id from messages where id = any($1::uuid[]) and removed_at is null order by id for share"
_LOCK_ROWS: Final = "select from webhook_deliveries where id = any($1::bigint[]) order by id for update"
_RECORD: Final = f"""
    update webhook_deliveries as delivery set
        state = result.state,
        status = result.status, error = result.error, duration_ms = result.duration_ms,
        response = result.response,
        attempts = delivery.attempts + (result.state <> '{DeliveryState.DROPPED}')::int,
        attempted_at = case when result.state <> '{DeliveryState.DROPPED}' then clock_timestamp() end,
        due_at = clock_timestamp() + make_interval(secs => result.delay)
    from unnest($1::bigint[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::int[], $7::float8[])
        as result (id, state, status, error, response, duration_ms, delay)
    where delivery.id = result.id and delivery.state = '{DeliveryState.PENDING}'
"""  # noqa: S608 - built from constants
# A success of webhooks without failures writes nothing. The attempts that were under way when the breaker opened
# count as one.
_JUDGE: Final = f"""
    with verdict as (
        select * from unnest($1::uuid[], $2::bool[], $3::int[], $4::bool[]) as verdict (id, succeeded, failed, gone)
    ),
    judged as (
        select webhook.id, succeeded, gone,
            case when succeeded then 0
                else least(failures + failed, greatest({BREAKER_AFTER}, failures + 1)) end as failures,
            case when not succeeded then coalesce(failing_since, clock_timestamp()) end as failing_since
        from verdict join webhooks as webhook using (id)
        where not succeeded or webhook.failures > 0
    ),
    decided as (
        select *, case
            when gone then '{WebhookOff.GONE}'
            when failures >= {BREAKER_AFTER} and failing_since < clock_timestamp() - make_interval(secs => $5 * 86400)
                then '{WebhookOff.FAILING}'
        end as reason
        from judged
    )
    update webhooks as webhook set
        failures = decided.failures,
        failing_since = decided.failing_since,
        paused_until = case when decided.failures >= {BREAKER_AFTER} then clock_timestamp() + make_interval(
            secs => least({BREAKER_FIRST} * 2 ^ least(decided.failures - {BREAKER_AFTER}, 20), {BREAKER_MOST})
        ) end,
        disabled_reason = coalesce(webhook.disabled_reason, decided.reason),
        disabled_at = coalesce(webhook.disabled_at, case when decided.reason is not null then clock_timestamp() end)
    from decided where webhook.id = decided.id
    returning webhook.id, webhook.disabled_reason,
        new.disabled_at is not null or new.paused_until is not null as has_stopped,
        old.disabled_at is null and new.disabled_at is not null as off
"""  # noqa: S608 - built from constants
