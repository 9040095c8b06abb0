"""The numbers of a report, read from the facts of a span of days.

Up to `EXACT_DAYS` and `EXACT_ROWS` percentiles are exact. Beyond, durations are counted in fixed buckets, each
`BUCKET_RATIO` times as wide as the one before, and a percentile is the middle of its bucket.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple

from shared.database.engine import Driver

EXACT_DAYS: Final = 92
EXACT_ROWS: Final = 100_000  # cycles that were opened, replied to or resolved
BUCKET_RATIO: Final = 1.1
ERROR_PERCENT: Final = 5  # of a percentile from buckets: half a bucket
_DAY: Final = timedelta(days=1)


class By(StrEnum):
    """What a report's rows stand for."""

    DAY = "day"
    ADMIN = "admin"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Span:
    """Whole days of a time zone, both ends included."""

    first: date
    last: date
    zone: tzinfo

    @property
    def days(self) -> Sequence[date]:
        """All days, in order."""
        return [self.first + _DAY * number for number in range((self.last - self.first).days + 1)]

    @property
    def bounds(self) -> Sequence[datetime]:
        """The beginning of each day, and the end of the last one."""
        return [datetime.combine(day, time(), self.zone) for day in (*self.days, self.last + _DAY)]


class Spread(NamedTuple):
    """Two percentiles of durations in seconds; None without any."""

    median: float | None = None
    p90: float | None = None


_NONE: Final = Spread()


@dataclass(slots=True)
class Measures:
    """What happened: cycles opened, replied to for the first time, and resolved, and how long the latter two took."""

    opened: int = 0
    replied: int = 0
    resolved: int = 0
    first_reply: Spread = _NONE
    resolution: Spread = _NONE


class Person(NamedTuple):
    """An admin."""

    id: str
    name: str | None
    is_deleted: bool


Key = date | Person | str | None
"""A day, an admin, the name of a label; None for what no admin did, and for what has no label."""


@dataclass(slots=True)
class Report:
    """The numbers of a span, in total and by key, with None last. `exact_since`: see `ReportProgress`."""

    is_exact: bool
    is_complete: bool
    exact_since: datetime | None
    total: Measures = field(default_factory=Measures)
    rows: list[tuple[Key, Measures]] = field(default_factory=list)


async def read_report(driver: Driver, span: Span, by: By) -> Report:
    """Return the numbers of a span. Labels are those that conversations have now."""
    bounds = span.bounds
    ends = bounds[0], bounds[-1]
    facts = await driver.fetchrow(_SIZE, *ends)
    assert facts is not None  # noqa: S101 - one row
    is_exact = len(span.days) <= EXACT_DAYS and facts["rows"] <= EXACT_ROWS
    report = Report(is_exact, not facts["is_filling"], facts["exact_since"])
    found: dict[Key, Measures] = {}
    days = span.days
    for row in await driver.fetch(_numbers(by, is_exact), *ends, bounds if by is By.DAY else []):
        key = None if row["key"] is None else _key(row, by, days)
        _add(report.total if row["is_total"] else found.setdefault(key, Measures()), row)
    if by is By.DAY:
        report.rows = [(day, found.get(day, Measures())) for day in days]
    else:
        report.rows = sorted(found.items(), key=lambda item: _order(item[0]))
    return report


def _key(row: Any, by: By, days: Sequence[date]) -> Key:
    match by:
        case By.DAY:
            return days[int(row["key"]) - 1]
        case By.ADMIN:
            return Person(row["key"], row["name"], row["is_deleted"])
        case By.LABEL:
            return str(row["name"])


def _order(key: Key) -> tuple[bool, str, str]:
    """Return the place of an admin or a label: by name, None last."""
    name, more = (key.name or key.id, key.id) if isinstance(key, Person) else (str(key), "")
    return key is None, name.casefold(), more


def _add(measures: Measures, row: Any) -> None:
    spread = Spread(row["median"], row["p90"])
    match row["kind"]:
        case "opened":
            measures.opened = row["count"]
        case "replied":
            measures.replied, measures.first_reply = row["count"], spread
        case _:
            measures.resolved, measures.resolution = row["count"], spread


_STEPS = {
    "opened": ("opened_at", "null::float8", "opened_by"),
    "replied": ("replied_at", "extract(epoch from replied_at - opened_at)::float8", "replied_by"),
    "resolved": ("resolved_at", "extract(epoch from resolved_at - opened_at)::float8", "resolved_by"),
}
_SIZE = f"""
    select greatest({
    ", ".join(
        f'''(select count(*) from (
            select from conversation_facts where {at} >= $1 and {at} < $2 limit {EXACT_ROWS + 1}
        ) as {kind})'''
        for kind, (at, _, _) in _STEPS.items()
    )
}) as rows, fill_before is not null as is_filling, exact_since
    from report_progress
"""  # noqa: S608 - built from constants
_KEYS = {
    By.DAY: ("width_bucket(at, $3::timestamptz[])::text", "", "null", "false"),
    By.ADMIN: (
        "admin_id",
        "",
        "(select name from users where id = numbers.key)",
        # Somebody who is not known was a user once, as far as anybody can tell.
        "not exists (select from users where id = numbers.key and deleted_at is null)",
    ),
    By.LABEL: (
        "labelled.label_id::text",
        "left join labelled using (conversation_id)",
        "(select name from labels where id = numbers.key::int)",
        "false",
    ),
}
_EXACT = """
    select is_total, key, kind, count(*) as count,
        percentile_cont(0.5) within group (order by seconds) as median,
        percentile_cont(0.9) within group (order by seconds) as p90
    from keyed group by is_total, key, kind
"""


def _percentile(fraction: float) -> str:
    """Return the SQL of a percentile from buckets, between the middles of those of its two neighbours."""
    rank = f"({fraction} * (count - 1))"
    lower, upper = (
        f"{BUCKET_RATIO}::float8 ^ (min(bucket) filter (where reached >= {end}{rank} + 1) - 0.5)"
        for end in ("floor", "ceil")
    )
    return f"{lower} + ({upper} - {lower}) * max({rank} - floor{rank})::float8"


_BUCKETED = f"""
    select is_total, key, kind, max(count)::bigint as count, {_percentile(0.5)} as median, {_percentile(0.9)} as p90
    from (
        select *, sum(rows) over (partition by is_total, key, kind) as count,
            sum(rows) over (partition by is_total, key, kind order by bucket) as reached
        from (
            -- Bucket n ends at the ratio to the power of n; the first one holds all of up to a second.
            select is_total, key, kind, ceil(ln(greatest(seconds, 1)) / ln({BUCKET_RATIO}))::float8 as bucket,
                count(*) as rows
            from keyed group by is_total, key, kind, bucket
        ) as buckets
    ) as sums
    group by is_total, key, kind
"""  # noqa: S608 - built from constants


@cache
def _numbers(by: By, is_exact: bool) -> str:
    steps = "\n        union all ".join(
        f"select '{kind}' as kind, {at} as at, {seconds} as seconds, {admin} as admin_id, conversation_id"  # noqa: S608 - built from constants
        f" from conversation_facts where {at} >= $1 and {at} < $2"
        for kind, (at, seconds, admin) in _STEPS.items()
    )
    key, join, name, is_deleted = _KEYS[by]
    return f"""
    with steps as materialized ({steps}),
    labelled as (
        select counted.conversation_id, labels.id as label_id
        from (select distinct conversation_id from steps) as counted
            join conversations on conversations.id = counted.conversation_id
            cross join lateral unnest(conversations.label_ids) as has (label_id)
            join labels on labels.id = has.label_id
    ),
    keyed as (
        select true as is_total, null as key, kind, seconds from steps
        union all select false, {key}, kind, seconds from steps {join}
    ),
    -- A parameter that only days need.
    days as (select cardinality($3::timestamptz[]))
    select numbers.*, {name} as name, {is_deleted} as is_deleted from ({_EXACT if is_exact else _BUCKETED}) as numbers
    """  # noqa: S608 - built from constants
