"""Post emails that came in as messages of their conversations, through the conversations service.

Each conversation's emails go in the order of their arrival. The call names the row, so that a call that is repeated
after a crash, or whose answer was lost, posts nothing again. The first of a line waits for an outage as long as that
lasts, because no other could go either, and for the limits of its author. If it fails for itself, it waits 15 minutes,
is then held, and the next one goes.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import httpx2
import structlog

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.becoming import Store, read_due
from services.notifications.inbound.calls import Ended, Limited, Outage, send
from services.notifications.inbound.held_notices import ONCE_A_DAY_SQL, TELL_SENDER_SQL
from services.notifications.rules import HEAD_WAITS, InboundKind, InboundReason, InboundState
from shared.database import ConnectionProvider, Driver
from shared.failpoints import failpoint

LEASE_SECONDS: Final = 120  # for reading an email, and sending its files and its text
RETRY_SECONDS: Final = (1, 2, 5, 10, 20, 30)  # after an outage or a failure; the last one repeats
MAX_TRIES: Final = 20  # after which an email whose last attempt ended without a result is held
BATCH: Final = 20  # emails of different conversations at once

log = structlog.get_logger()


async def post_due(acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store) -> int:
    """Post the first email of each line that is due; return how many were tried."""
    lease = uuid4()
    async with acquire() as connection:
        await connection.execute(_HOLD_DEADLY, MAX_TRIES)
        rows = await connection.fetch(_CLAIM, lease, LEASE_SECONDS, BATCH)
    failpoint("inbound-claimed")
    await asyncio.gather(*(_post(acquire, client, store, row, lease) for row in rows))
    return len(rows)


async def _post(
    acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store, row: Mapping[str, Any], lease: UUID
) -> None:
    failing = False
    try:
        reply = await read_due(acquire, store, row)
        message, left_out = await send(client, row, reply)
        reason = InboundReason.FILES_LEFT_OUT if left_out else reply.reason
    except Ended as end:
        state = end.state
        if row["kind"] == InboundKind.CONVERSATION and end.reason is InboundReason.NO_LONGER_ALLOWED:
            state = InboundState.HELD  # for another customer
        async with acquire() as connection:
            await _end(connection, row["id"], lease, state, end.reason)
        return
    except Limited as limit:
        log.info("email waits for the limits of its author", inbound_id=str(row["id"]), seconds=limit.seconds)
        async with acquire() as connection:
            await connection.execute(_WAIT, row["id"], lease, limit.seconds)
        return
    except Outage as error:
        log.warning("conversations service unavailable, email waits", inbound_id=str(row["id"]), error=str(error))
    except Exception as error:
        failing = True
        log.warning("email not posted, retrying", inbound_id=str(row["id"]), error=f"{type(error).__name__}: {error}")
        log.debug("email not posted", exc_info=True)
    else:
        failpoint("inbound-posted")
        async with acquire() as connection:
            await connection.execute(_POSTED, row["id"], lease, UUID(message["id"]), message["number"], reason)
        failpoint("inbound-recorded")
        log.info("email posted", inbound_id=str(row["id"]), message_id=message["id"])
        return
    delay = RETRY_SECONDS[min(row["tries"], len(RETRY_SECONDS) - 1)]
    async with acquire() as connection:
        await connection.execute(_RETRY, row["id"], lease, delay, failing, HEAD_WAITS)


async def _end(connection: Driver, email_id: UUID, lease: UUID, state: InboundState, reason: InboundReason) -> None:
    await connection.execute(_END, email_id, lease, state, reason)
    log.info("email not posted", inbound_id=str(email_id), state=state, reason=reason)


# Attempts that end in any other way give the lease back: this one has ended its process, or taken too long.
_HOLD_DEADLY: Final = f"""
with deadly as (
    update inbound_emails set state = '{InboundState.HELD}', reason = '{InboundReason.NOT_ACCEPTED}', lease_id = null,
        lease_until = null
    where state = '{InboundState.RECEIVED}' and lease_until < clock_timestamp() and tries >= $1
    returning id
)
{INBOUND_UPDATED_SQL} deadly
"""  # noqa: S608 - built from constants
# The first of each conversation's line. The conditions are checked again when the row is locked.
_CLAIM: Final = f"""
update inbound_emails set lease_id = $1, lease_until = clock_timestamp() + make_interval(secs => $2), tries = tries + 1
where id = any(array(
        select id from (
            select distinct on (conversation_id) id, next_attempt_at, lease_until from inbound_emails
            where state = '{InboundState.RECEIVED}' order by conversation_id, id
        ) as head
        where next_attempt_at <= clock_timestamp() and (lease_until is null or lease_until < clock_timestamp())
        order by id limit $3
    ))
    and state = '{InboundState.RECEIVED}' and (lease_until is null or lease_until < clock_timestamp())
returning id, conversation_id, user_id, read_up_to, tries, kind, posted_by, from_address
"""  # noqa: S608 - built from constants
_POSTED: Final = f"""
update inbound_emails set state = '{InboundState.POSTED}', message_id = $3, message_number = $4, reason = $5,
    lease_id = null, lease_until = null, failing_since = null, finished_at = clock_timestamp()
where id = $1 and lease_id = $2 and state = '{InboundState.RECEIVED}'
"""  # noqa: S608 - built from constants
# The deletion that the conversations service knows of may have been handled here before the email came.
_END: Final = f"""
with ended as (
update inbound_emails set state = $3, reason = $4, lease_id = null, lease_until = null,
    finished_at = case when $3 <> '{InboundState.HELD}' then clock_timestamp() end,
    original = case when not deleted then original end, from_address = case when not deleted then from_address end
from (
    select $4 = '{InboundReason.CONVERSATION_DELETED}' or exists (
        select from people join inbound_emails as ended on ended.user_id = people.id where ended.id = $1 and deleted
    ) as deleted
) as its
where id = $1 and lease_id = $2 and state = '{InboundState.RECEIVED}'
returning id, state, from_address
), noticed as (
    {TELL_SENDER_SQL}
    select from_address, id from ended
    where state = '{InboundState.HELD}' and from_address is not null and $4 = '{InboundReason.UNCERTAIN_QUOTE}'
    {ONCE_A_DAY_SQL}
)
{INBOUND_UPDATED_SQL} ended where state = '{InboundState.HELD}'
"""  # noqa: S608 - built from constants
# A wait is no attempt.
_WAIT: Final = f"""
update inbound_emails set next_attempt_at = clock_timestamp() + make_interval(secs => $3), lease_id = null,
    lease_until = null, failing_since = null, tries = greatest(tries - 1, 0)
where id = $1 and lease_id = $2 and state = '{InboundState.RECEIVED}'
"""  # noqa: S608 - built from constants
_RETRY: Final = f"""
with tried as (
update inbound_emails set
    next_attempt_at = clock_timestamp() + make_interval(secs => $3), lease_id = null, lease_until = null,
    failing_since = case when $4 then coalesce(failing_since, clock_timestamp()) end,
    state = case when failed_for > $5 then '{InboundState.HELD}' else state end,
    reason = case when failed_for > $5 then '{InboundReason.NOT_ACCEPTED}' end
from (
    select case when $4 then extract(epoch from clock_timestamp() - failing_since) end as failed_for
    from inbound_emails where id = $1
) as so_far
where id = $1 and lease_id = $2 and inbound_emails.state = '{InboundState.RECEIVED}'
returning id, inbound_emails.state
)
{INBOUND_UPDATED_SQL} tried where state = '{InboundState.HELD}'
"""  # noqa: S608 - built from constants
