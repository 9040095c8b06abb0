"""The page of the operators: the state of the event log, and of the notifications service, which its script loads."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.conversations.api.state import api_state
from services.conversations.event_log import reader, retention, sequencer
from services.conversations.messaging import erasure_batches
from services.conversations.web.auth import AdminContext
from services.conversations.web.rendering import OPERATIONS_ROOT, PageRoute, add_slash, pages_of
from shared.api.dependencies import DbSession
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.broker.reports import FRESH, read_reports
from shared.event_log.reading import read_lags
from shared.event_log.retention import oldest_age

DAY = 24 * 3600  # seconds

router = APIRouter(prefix=OPERATIONS_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
router.add_api_route("", add_slash)


@router.get("/")
async def show_operations(request: Request, page_context: AdminContext, session: DbSession) -> Response:
    """Show the state of both services."""
    check_permission(page_context.principal, Permission.OPERATIONS)
    log = await sequencer.read_state(session)
    readers = [(name, log.head - position, lag, lag > reader.LATE) for name, position, lag in await read_lags(session)]
    kept_days, wanted_days = await oldest_age(session) / DAY, api_state(request).settings.retention_days
    return pages_of(request).render(
        request,
        "operations.html",
        page_context,
        log=log,
        is_late=log.lag > sequencer.LATE,
        readers=readers,
        kept_days=kept_days,
        is_kept_longer=kept_days > wanted_days + retention.LATE_PURGE,
        relays=[report for report in sorted(await read_reports(session)) if report.age < FRESH],
        erasure=await erasure_batches.read_state(session),
    )
