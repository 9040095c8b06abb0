"""The page of the reports: numbers, charts, the same as a table, and as a CSV file."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Annotated, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from services.conversations.api.routes.reports import FirstDay, Grouping, LastDay, csv_response, span_of
from services.conversations.api.schemas.reports import ReportDay, csv_name, csv_of
from services.conversations.reports.numbers import ERROR_PERCENT, By, Report, Span, read_report
from services.conversations.web.auth import AdminContext, PageContext
from services.conversations.web.charts import Chart, count_chart, duration_chart
from services.conversations.web.rendering import REPORTS_ROOT, PageRoute, add_slash, pages_of
from shared.api.dependencies import DbSession
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.database.transactions import driver_connection
from shared.problems import Invalid

RANGES = (7, 30, 90, 365)  # days up to today, as links
_DAY = TypeAdapter(ReportDay)

router = APIRouter(prefix=REPORTS_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
router.add_api_route("", add_slash)


class Charts(NamedTuple):
    """The charts of a report by days."""

    counts: Chart
    first_reply: Chart
    resolution: Chart


@router.get("/")
async def show_report(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    first: Annotated[str, Query(alias="from", max_length=100)] = "",
    last: Annotated[str, Query(alias="to", max_length=100)] = "",
    by: Grouping = By.DAY,
) -> Response:
    """Show the report of some days, by default the last 30. Days that cannot be are said above the default ones."""
    check_permission(page_context.principal, Permission.REPORTS)
    error = None
    try:
        span = span_of(request, *(_DAY.validate_python(text) if text else None for text in (first, last)))
    except (Invalid, ValidationError) as problem:
        gettext = pages_of(request).reader(request, page_context).gettext
        error = (
            gettext("Enter days such as 2026-11-30.")
            if isinstance(problem, ValidationError)
            else gettext("Choose a first day that is not after the last day, and at most ten years before it.")
        )
        span = span_of(request, None, None)
    report = await read_report(await driver_connection(session), span, by)
    return _page(request, page_context, span, by, report, error)


@router.get("/report.csv")
async def download_report(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    first: FirstDay = None,
    last: LastDay = None,
    by: Grouping = By.DAY,
) -> Response:
    """Return a report's rows as a CSV file."""
    check_permission(page_context.principal, Permission.REPORTS)
    span = span_of(request, first, last)
    report = await read_report(await driver_connection(session), span, by)
    return csv_response(csv_of(report, by), csv_name(span, by))


def _page(
    request: Request, page_context: PageContext, span: Span, by: By, report: Report, error: str | None
) -> Response:
    total = report.total
    return pages_of(request).render(
        request,
        "reports.html",
        page_context,
        status=422 if error else 200,
        error=error,
        span=span,
        by=by,
        report=report,
        is_empty=not (total.opened or total.replied or total.resolved),
        is_partly_exact=report.exact_since is not None and span.bounds[0] < report.exact_since,
        error_percent=ERROR_PERCENT,
        charts=_charts(report) if by is By.DAY else None,
        groupings=list(By),
        query=lambda **changes: _query(span, by, changes),
        ranges=list(_ranges(span_of(request, None, None).last, span)),
    )


def _charts(report: Report) -> Charts:
    days = [measures for _, measures in report.rows]
    return Charts(
        count_chart([[getattr(day, name) for day in days] for name in ("opened", "replied", "resolved")]),
        duration_chart([[day.first_reply.median for day in days], [day.first_reply.p90 for day in days]]),
        duration_chart([[day.resolution.median for day in days], [day.resolution.p90 for day in days]]),
    )


def _query(span: Span, by: By, changes: dict[str, date | str]) -> str:
    """Return the query string of this report with some changes."""
    return urlencode({"from": span.first, "to": span.last, "by": by.value} | changes)


def _ranges(today: date, span: Span) -> Iterator[tuple[int, date, date, bool]]:
    """Yield the spans that are links: days, first, last, and whether it is the present one."""
    for days in RANGES:
        first = today - timedelta(days=days - 1)
        yield days, first, today, (span.first, span.last) == (first, today)
