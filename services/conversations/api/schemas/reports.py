"""The bodies of the reports, and the same as CSV."""

import csv
import io
import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Final, Self

import msgspec
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from services.conversations.api.schemas.responses import AdminOut
from services.conversations.reports.numbers import ERROR_PERCENT, By, Key, Measures, Person, Report, Span, Spread
from shared.api.response_body import ResponseBody

_DATE: Final = re.compile(r"2[01]\d\d-\d\d-\d\d")
_RISKY: Final = ("=", "+", "-", "@", "\t", "\r")  # programs take a cell that begins so for a formula


def _check_date(text: Any) -> Any:
    try:
        if isinstance(text, str) and _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise PydanticCustomError("day", "must be a date from 2000 to 2199, such as 2026-11-30")


ReportDay = Annotated[date, BeforeValidator(_check_date)]


class SpreadOut(ResponseBody):
    """Percentiles of durations in seconds; null if there were none."""

    median: float | None
    p90: float | None

    @classmethod
    def of(cls, spread: Spread) -> Self:
        """Convert two percentiles."""
        return cls(*(None if value is None else round(value, 1) for value in spread))


class MeasuresOut(ResponseBody):
    """What happened. `first_reply` and `resolution` say how long after the opening the replies and resolutions came.

    A conversation that a customer reopens counts again from there. `replied` are first replies, which conversations
    that an admin opened do not have.
    """

    opened: int
    replied: int
    resolved: int
    first_reply: SpreadOut
    resolution: SpreadOut

    @classmethod
    def of(cls, measures: Measures, **key: Any) -> Self:
        """Convert the numbers of a row, which has a key, or of the whole."""
        return cls(
            opened=measures.opened,
            replied=measures.replied,
            resolved=measures.resolved,
            first_reply=SpreadOut.of(measures.first_reply),
            resolution=SpreadOut.of(measures.resolution),
            **key,
        )


class DayRow(MeasuresOut, kw_only=True):
    """What happened on a day."""

    day: date


class AdminRow(MeasuresOut, kw_only=True):
    """What an admin did. Null stands for all that no admin did, such as what customers opened."""

    admin: AdminOut | None


class LabelRow(MeasuresOut, kw_only=True):
    """What happened in the conversations that have a label now; null stands for those without.

    A conversation with several labels counts for each.
    """

    label: str | None


class ReportOut(ResponseBody, kw_only=True):
    """A report on whole days of a time zone.

    With `exact` false, percentiles are from fixed buckets and at most `error_percent` per cent off. `complete` is false
    while conversations from before the reports are still being counted. Of those opened before `exact_since`, only what
    their messages and present status tell was counted; null if there were none.
    """

    first: Annotated[date, Field(alias="from")] = msgspec.field(name="from")
    to: date
    time_zone: str
    by: By
    exact: bool
    error_percent: int
    complete: bool
    exact_since: datetime | None
    total: MeasuresOut
    items: list[DayRow] | list[AdminRow] | list[LabelRow]

    @classmethod
    def of(cls, report: Report, span: Span, by: By) -> Self:
        """Convert a report."""
        return cls(
            first=span.first,
            to=span.last,
            time_zone=str(span.zone),
            by=by,
            exact=report.is_exact,
            error_percent=0 if report.is_exact else ERROR_PERCENT,
            complete=report.is_complete,
            exact_since=report.exact_since,
            total=MeasuresOut.of(report.total),
            items=[_row(key, measures, by) for key, measures in report.rows],  # type: ignore[arg-type] # all of one kind
        )


def _row(key: Key, measures: Measures, by: By) -> DayRow | AdminRow | LabelRow:
    if isinstance(key, date):
        return DayRow.of(measures, day=key)
    if by is By.ADMIN:
        admin = AdminOut.of(key.id, key.name, deleted=key.is_deleted) if isinstance(key, Person) else None
        return AdminRow.of(measures, admin=admin)
    return LabelRow.of(measures, label=key)


_KEYS: Final = {By.DAY: ("day",), By.ADMIN: ("admin_id", "admin_name"), By.LABEL: ("label",)}
_MEASURES: Final = (
    *("opened", "replied", "resolved", "first_reply_median_seconds", "first_reply_p90_seconds"),
    *("resolution_median_seconds", "resolution_p90_seconds"),
)


def csv_of(report: Report, by: By) -> str:
    """Return a report's rows as CSV, with a header."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow((*_KEYS[by], *_MEASURES))
    for key, measures in report.rows:
        spreads = (SpreadOut.of(measures.first_reply), SpreadOut.of(measures.resolution))
        durations = (value for spread in spreads for value in (spread.median, spread.p90))
        numbers = (measures.opened, measures.replied, measures.resolved, *durations)
        writer.writerow((*map(_cell, _key_cells(key, by)), *("" if value is None else value for value in numbers)))
    return file.getvalue()


def csv_name(span: Span, by: By) -> str:
    """Return the name of a report's file."""
    return f"report-{span.first}-{span.last}-by-{by}.csv"


def _key_cells(key: Key, by: By) -> Sequence[str]:
    if key is None:
        return ("",) * len(_KEYS[by])
    if isinstance(key, Person):
        return (key.id, AdminOut.of(key.id, key.name, deleted=key.is_deleted).name)
    return (str(key),)


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_RISKY) else text
