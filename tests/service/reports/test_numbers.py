"""The numbers of reports: exact on short spans, from buckets on long ones, and of whole days in the store's zone."""

import csv
import io
import math
import random
import statistics
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.conversations.app import create_app
from services.conversations.reports import numbers
from services.conversations.reports.numbers import By, Span, read_report
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import UNKNOWN_ID, Caller, problem
from tests.service.helpers.connected import client_of, connect
from tests.service.reports.test_facts import catch_up

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


async def put_facts(sessions: SessionFactory, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add facts: opened, by whom, seconds until the reply, by whom, seconds until the resolution, by whom."""

    def after(moment: datetime, seconds: float | None) -> datetime | None:
        return None if seconds is None else moment + timedelta(seconds=seconds)

    values = [(o, by, after(o, s1), by1, after(o, s2), by2) for o, by, s1, by1, s2, by2 in rows]
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        await driver.executemany(
            "insert into conversation_facts (conversation_id, cycle, number, opened_at, opened_by, replied_at,"
            " replied_by, resolved_at, resolved_by) values (uuidv7(), 1, 1, $1, $2, $3, $4, $5, $6)",
            values,
        )


async def read(sessions: SessionFactory, span: Span, by: By = By.DAY) -> numbers.Report:
    async with transaction(sessions) as session:
        return await read_report(await transaction_driver(session), span, by)


MARCH = {"from": "2026-03-01", "to": "2026-03-31"}


async def test_a_report_counts_what_happened_and_how_long_it_took(sam: Caller, conversations: SessionFactory) -> None:
    late = NOON + timedelta(days=1)
    await put_facts(
        conversations,
        [
            (NOON, None, 60, "sam", 3600, "sam"),
            (NOON, None, 120, "sam", None, None),
            (NOON, None, 600, "kim", 86400, "kim"),
            (late, "sam", None, None, 7200, None),
            (NOON - timedelta(days=20), None, 5, "sam", 10, "sam"),  # in February
        ],
    )
    report = await sam.get("/reports", **MARCH)
    assert report["total"] == {
        "opened": 4,
        "replied": 3,
        "resolved": 3,
        "first_reply": {"median": 120, "p90": 504},
        "resolution": {"median": 7200, "p90": 70560},
    }
    assert (report["from"], report["to"], report["time_zone"]) == ("2026-03-01", "2026-03-31", "UTC")
    assert (report["by"], report["exact"], report["error_percent"], report["complete"]) == ("day", True, 0, True)
    assert len(report["items"]) == 31
    by_day = {row["day"]: (row["opened"], row["replied"], row["resolved"]) for row in report["items"]}
    assert by_day.pop("2026-03-10") == (3, 3, 1)
    assert by_day.pop("2026-03-11") == (1, 0, 2)
    assert set(by_day.values()) == {(0, 0, 0)}

    rows = (await sam.get("/reports", by="admin", **MARCH))["items"]
    assert [(row["admin"], row["opened"], row["replied"], row["resolved"]) for row in rows] == [
        ({"id": "kim", "name": "Deleted admin"}, 0, 1, 1),  # nobody has ever seen this one
        ({"id": "sam", "name": "Sam"}, 1, 2, 1),
        (None, 3, 0, 1),
    ]
    assert rows[1]["first_reply"] == {"median": 90, "p90": 114}


async def test_labels_are_those_of_now_and_several_count_each(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    ids = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    for conversation, labels in zip(ids, (["Refund", "=sum(A1)"], ["refund"], ["Gone"]), strict=True):
        await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": labels})
    await catch_up(conversations)
    await sam.call("PATCH", "/labels/Refund", {"name": "Money"})
    await sam.call("DELETE", "/labels/Gone")

    report = await sam.get("/reports", by="label")
    assert [(row["label"], row["opened"]) for row in report["items"]] == [("=sum(A1)", 1), ("Money", 2), (None, 1)]
    assert report["total"]["opened"] == 3
    answer = await sam.call("GET", "/reports", headers={"Accept": "text/csv"}, params={"by": "label"})
    header, *rows = csv.reader(io.StringIO(answer.text))
    assert header[:2] == ["label", "opened"]
    assert [row[:2] for row in rows] == [["'=sum(A1)", "1"], ["Money", "2"], ["", "1"]]

    await sam.edit(ids[1], status="CLOSED")
    await sam.call("DELETE", f"/conversations/{ids[1]}")
    report = await sam.get("/reports", by="label")
    assert [(row["label"], row["opened"]) for row in report["items"]] == [("=sum(A1)", 1), ("Money", 1), (None, 2)]


async def test_csv_has_a_header_a_safe_name_and_the_same_numbers(sam: Caller, conversations: SessionFactory) -> None:
    await put_facts(conversations, [(NOON, None, 60, "@sam", None, None), (NOON, None, 90.25, "@sam", None, None)])
    answer = await sam.call("GET", "/reports", headers={"Accept": "text/csv"}, params=MARCH | {"by": "admin"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == ('attachment; filename="report-2026-03-01-2026-03-31-by-admin.csv"')
    assert answer.headers["Vary"] == "Accept"
    assert list(csv.reader(io.StringIO(answer.text))) == [
        [
            *("admin_id", "admin_name", "opened", "replied", "resolved"),
            *("first_reply_median_seconds", "first_reply_p90_seconds"),
            *("resolution_median_seconds", "resolution_p90_seconds"),
        ],
        ["'@sam", "Deleted admin", "0", "2", "0", "75.1", "87.2", "", ""],
        ["", "", "2", "0", "0", "", "", "", ""],
    ]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("text/csv;q=0.9, */*", "text/csv"),
        ("application/json, text/csv", "application/json"),
        ("application/json;q=0.1, text/csv", "text/csv"),
        ("text/csv;q=0", "application/json"),
        ("*/*", "application/json"),
    ],
)
async def test_csv_is_an_answer_only_to_those_who_ask_for_it(sam: Caller, accept: str, kind: str) -> None:
    answer = await sam.call("GET", "/reports", headers={"Accept": accept})
    assert answer.headers["Content-Type"].partition(";")[0] == kind


async def test_without_dates_a_report_ends_today_and_has_thirty_days(sam: Caller) -> None:
    report = await sam.get("/reports")
    today = datetime.now(UTC).date()
    assert today - date.fromisoformat(report["to"]) <= timedelta(days=1)
    assert date.fromisoformat(report["to"]) - date.fromisoformat(report["from"]) == timedelta(days=29)
    assert len(report["items"]) == 30
    assert report["exact_since"] is None
    assert (await sam.get("/reports", to="2026-03-30"))["from"] == "2026-03-01"


@pytest.mark.parametrize(
    ("parameters", "field", "reason"),
    [
        ({"from": "yesterday"}, "from", "must be a date from 2000 to 2199, such as 2026-11-30"),
        ({"from": "2026-02-30"}, "from", "must be a date"),
        ({"to": "1773100800"}, "to", "must be a date"),
        ({"to": "9999-12-31"}, "to", "must be a date"),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "from", "from (2026-03-02) must not be after to"),
        ({"from": "2000-01-01", "to": "2026-03-01"}, "from", "at most 3660 days: choose a later from"),
        ({"by": "customer"}, "by", "'day', 'admin' or 'label'"),
    ],
)
async def test_a_span_that_cannot_be_is_refused_with_the_reason(
    sam: Caller, parameters: dict[str, str], field: str, reason: str
) -> None:
    answer = await sam.call("GET", "/reports", params=parameters)
    assert problem(answer) == (422, "validation-failed")
    [error] = answer.json()["errors"]
    assert error["loc"] == ["query", field]
    assert reason in error["msg"]


async def test_days_begin_at_midnight_in_the_stores_zone_also_when_clocks_change(
    conversations: SessionFactory, databases: dict[str, str], acting_as: As
) -> None:
    settings = ApiSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        redis_url=None,
        time_zone="Europe/Berlin",
    )
    app = create_app(settings)
    connect(app, conversations)
    zone = ZoneInfo("Europe/Berlin")
    moments = [datetime(2026, 3, 29, 0, 0, tzinfo=zone), datetime(2026, 3, 29, 23, 59, tzinfo=zone)]
    await put_facts(
        conversations, [(each, None, None, None, None, None) for each in (*moments, moments[0] - timedelta(minutes=1))]
    )
    async with client_of(app) as client:
        caller = Caller(client, "/api/v1/admin", acting_as("sam", "admin"))
        report = await caller.get("/reports", **{"from": "2026-03-28", "to": "2026-03-30"})
    assert [row["opened"] for row in report["items"]] == [1, 2, 0]
    assert report["time_zone"] == "Europe/Berlin"


async def test_percentiles_of_a_long_span_come_from_buckets_and_are_as_close_as_stated(
    conversations: SessionFactory,
) -> None:
    randomly = random.Random(7)
    seconds = [math.exp(randomly.uniform(0, 13)) for _ in range(2_000)]
    days = [NOON + timedelta(days=randomly.randrange(60)) for _ in seconds]
    await put_facts(
        conversations, [(day, None, each, "sam", None, None) for day, each in zip(days, seconds, strict=True)]
    )
    short, long = (Span(date(2026, 3, 1), date(2026, last, 31), UTC) for last in (5, 12))
    exact, rough = await read(conversations, short, By.ADMIN), await read(conversations, long, By.ADMIN)
    assert (exact.is_exact, rough.is_exact) == (True, False)
    for truths, estimates in (exact.total, rough.total), (exact.rows[0][1], rough.rows[0][1]):
        assert truths.replied == estimates.replied == len(seconds)
        for truth, estimate in zip(truths.first_reply, estimates.first_reply, strict=True):
            assert truth is not None
            assert estimate is not None
            assert abs(estimate - truth) / truth <= numbers.ERROR_PERCENT / 100


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
async def test_few_durations_in_buckets_are_as_close_as_many(conversations: SessionFactory, count: int) -> None:
    randomly = random.Random(count)
    seconds = sorted(math.exp(randomly.uniform(0, 12)) for _ in range(count))
    await put_facts(conversations, [(NOON, None, None, None, each, "sam") for each in seconds])
    report = await read(conversations, Span(date(2026, 1, 1), date(2026, 12, 31), UTC))
    assert not report.is_exact
    median, p90 = report.total.resolution
    assert median is not None
    assert p90 is not None
    rank = 0.9 * (count - 1)
    nearest = [seconds[math.floor(rank)], seconds[math.ceil(rank)]]
    truths = statistics.median(seconds), nearest[0] + (nearest[1] - nearest[0]) * (rank % 1)
    for truth, estimate in zip(truths, (median, p90), strict=True):
        assert abs(estimate - truth) / truth <= numbers.ERROR_PERCENT / 100


async def test_many_rows_come_from_buckets_too(conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "EXACT_ROWS", 2)
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None)] * 2)
    span = Span(date(2026, 3, 1), date(2026, 3, 31), UTC)
    assert (await read(conversations, span)).is_exact
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None)])
    assert not (await read(conversations, span)).is_exact


async def test_the_bounds_of_days_are_in_order_and_as_far_apart_as_the_zones_days() -> None:
    span = Span(date(2026, 3, 28), date(2026, 3, 30), ZoneInfo("Europe/Berlin"))
    hours = [
        (after - before).total_seconds() / 3600
        for before, after in pairwise(each.astimezone(UTC) for each in span.bounds)
    ]
    assert hours == [24, 23, 24]


@pytest.mark.parametrize("path", ["/reports"])
async def test_reports_need_their_permission(
    conversations: SessionFactory, databases: dict[str, str], acting_as: As, path: str
) -> None:
    settings = ApiSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        redis_url=None,
        auth_permissions_claim="permissions",
    )
    app = create_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        for permissions, status in ([], 403), (["audit"], 403), (["reports"], 200):
            caller = Caller(client, "/api/v1/admin", acting_as("sam", "admin", permissions=permissions))
            assert (await caller.call("GET", path)).status_code == status


async def test_no_report_names_a_conversation_or_a_customer(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await catch_up(conversations)
    assert conversation != UNKNOWN_ID
    for by in By:
        for accept in ("application/json", "text/csv"):
            answer = await sam.call("GET", "/reports", headers={"Accept": accept}, params={"by": by})
            assert conversation not in answer.text
            assert "anna" not in answer.text.lower()
