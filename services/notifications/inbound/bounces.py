"""Take in what mail servers report about an email of ours, at its envelope sender `bounce+TOKEN@domain`.

Nothing that arrives there ever becomes a message: not a report, and not what a program answers by itself.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from services.notifications.inbound.loops import automatic_reason
from services.notifications.inbound.mime import parse_headers
from shared.database import Driver

VALID_DAYS: Final = 30  # after the last attempt; mail servers give up after five to seven

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reported:
    """The email of ours whose envelope sender an address is. `expired`: reports about it have no effect any more."""

    email_id: UUID
    expired: bool


async def find_reported(connection: Driver, email_id: UUID) -> Reported | None:
    """Return the email that has an envelope sender; None if it does not exist, or was never given to a mail server."""
    row = await connection.fetchrow(_FIND, email_id, VALID_DAYS)
    return Reported(email_id, row["expired"]) if row is not None else None


async def take_report(
    connection: Driver,  # noqa: ARG001 - for what follows from a report
    reported: Reported,
    envelope_from: str | None,
    content: bytes,
) -> bool:
    """Take a report in; return False for an email that may be from a person, who must know that nobody reads it."""
    reason = automatic_reason(parse_headers(content), envelope_from)
    log.info("report taken in", email_id=str(reported.email_id), reason=reason)
    return reason is not None


_FIND: Final = """
select greatest(claimed_at, finished_at) < clock_timestamp() - make_interval(days => $2) as expired
from emails where id = $1 and claimed_at is not null
"""
