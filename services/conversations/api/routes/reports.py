"""The route of the reports: how many conversations, and how long replies and resolutions took."""

import re
from datetime import date, datetime, timedelta
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.responses import Response

from services.conversations.api.dependencies import Admin
from services.conversations.api.schemas.reports import ReportDay, ReportOut, csv_name, csv_of
from services.conversations.api.state import api_state
from services.conversations.reports.numbers import By, Span, read_report
from shared.api.dependencies import DbSession
from shared.api.response_body import write_json
from shared.api.routing import ApiRouter
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.database.transactions import driver_connection
from shared.problems import Forbidden, Invalid, Unauthenticated, Unavailable, problem_responses
from shared.time_zones import known_zone

DEFAULT_DAYS = 30
MAX_DAYS = 3_660
CSV = "text/csv"

router = ApiRouter(
    prefix="/api/v1/admin",
    tags=["Reports and audit"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

FirstDay = Annotated[
    ReportDay | None,
    Query(alias="from", description=f"The first day. By default {DEFAULT_DAYS} days end with the last one."),
]
LastDay = Annotated[ReportDay | None, Query(alias="to", description="The last day, which counts. By default today.")]
Grouping = Annotated[By, Query(description="What each row of the report stands for.")]


@router.get(
    "/reports",
    summary="Get a report",
    response_model=ReportOut,
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}},
)
async def get_report(
    request: Request,
    caller: Admin,
    session: DbSession,
    first: FirstDay = None,
    last: LastDay = None,
    by: Grouping = By.DAY,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Return the numbers of some days in `CHATS_TIME_ZONE`. With `Accept: text/csv` the rows are a CSV file.

    Needs the permission `reports`.
    """
    check_permission(caller, Permission.REPORTS)
    span = span_of(request, first, last)
    report = await read_report(await driver_connection(session), span, by)
    if _prefers_csv(accept):
        return csv_response(csv_of(report, by), csv_name(span, by))
    return Response(write_json(ReportOut.of(report, span, by)), media_type="application/json", headers=_VARY)


def span_of(request: Request, first: date | None, last: date | None) -> Span:
    """Return the days of a report. Raises `Invalid`."""
    zone = known_zone([api_state(request).settings.time_zone])
    last = last or max(datetime.now(zone).date(), first or date.min)
    first = first or last - timedelta(days=DEFAULT_DAYS - 1)
    if first > last:
        raise Invalid(f"from ({first}) must not be after to ({last}).", ("query", "from"))
    if (last - first).days >= MAX_DAYS:
        raise Invalid(f"A report covers at most {MAX_DAYS} days: choose a later from.", ("query", "from"))
    return Span(first, last, zone)


def _prefers_csv(accept: str) -> bool:
    """Return whether an `Accept` header names CSV, with a higher weight than JSON if it names both."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_type, *parameters = (value.strip() for value in part.split(";"))
        weight = next((found[1] for value in parameters if (found := _WEIGHT.fullmatch(value))), "1")
        weights[media_type] = float(weight)
    return weights.get(CSV, 0) > weights.get("application/json", 0)


def csv_response(text: str, name: str) -> Response:
    """Return a CSV file to download."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', **_VARY}
    return Response(text, media_type=f"{CSV}; charset=utf-8", headers=headers)


_VARY = {"Vary": "Accept"}
_WEIGHT = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")
