"""Post emails that came in as messages of their conversations, through the conversations service.

Each conversation's emails go in the order of their arrival. The call names the row, so that a call that is repeated
after a crash, or whose answer was lost, posts nothing again. The first of a line waits for an outage as long as that
lasts, because no other could go either, and for the limits of its author. If it fails for itself, it waits 15 minutes,
is then held, and the next one goes.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import httpx2
import structlog

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.calls import (
    Ended,
    Limited,
    Outage,
    Outcome,
    Reply,
    Saved,
    send,
    send_texts,
)
from services.notifications.inbound.held_notices import ONCE_A_DAY_SQL, TELL_SENDER_SQL
from services.notifications.inbound.reply_content import SMALL, Store, read_contexts, read_email
from services.notifications.rules import HEAD_WAITS, InboundKind, InboundReason, InboundState
from shared.database.engine import Driver
from shared.database.transactions import ConnectionProvider
from shared.process.failpoints import failpoint

LEASE_SECONDS: Final = 120  # for reading an email, and sending its files and its text
RETRY_SECONDS: Final = (1, 2, 5, 10, 20, 30)  # after an outage or a failure; the last one repeats
MAX_TRIES: Final = 20  # after which an email whose last attempt ended without a result is held
BATCH: Final = 50  # emails of different conversations at once
TURN: Final = 4  # emails that are read in a row, in some milliseconds: each alone, after other work, takes longer

Row = Mapping[str, Any]

log = structlog.get_logger()


async def post_due(acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store) -> int:
    """Post the first email of each line that is due; return how many were tried."""
    lease = uuid4()
    async with acquire() as connection:
        await connection.execute(_HOLD_DEADLY, MAX_TRIES)
        rows = await connection.fetch(_CLAIM, lease, LEASE_SECONDS, BATCH)
    failpoint("inbound-claimed")
    round_ = _Round(acquire, client, store, lease)
    await round_.post([row for row in rows if row["size"] <= SMALL])
    for row in rows:
        if row["size"] > SMALL:  # one after the other: each takes three times its size in memory
            await round_.post([row])
    return len(rows)


class _Round:
    """Posts emails of different conversations that were claimed together."""

    def __init__(self, acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store, lease: UUID) -> None:
        self._acquire, self._client, self._store, self._lease = acquire, client, store, lease
        self._deadline = time.monotonic() + LEASE_SECONDS / 2
        self._outage: Outage | None = None

    async def post(self, rows: Sequence[Row]) -> None:
        """Post emails, those without files in one call, and record what became of each."""
        if not rows:
            return
        if self._outage is not None or time.monotonic() > self._deadline:  # their turn comes again
            await self._record([(row, self._outage or Limited(0)) for row in rows])
            return
        outcomes: list[tuple[Row, Outcome | Exception]] = []
        texts: list[tuple[Row, Reply]] = []
        with_files: list[tuple[Row, Reply]] = []
        try:
            contexts = await read_contexts(self._acquire, rows)
        except Exception as error:  # noqa: BLE001 - each is tried again
            await self._record([(row, error) for row in rows])
            return
        for number, row in enumerate(rows, 1):
            try:
                reply = await read_email(self._store, row, contexts.pop(row["id"], None))
            except Exception as error:  # noqa: BLE001 - an outcome
                outcomes.append((row, error))
            else:
                (with_files if reply.files else texts).append((row, reply))
            if number % TURN == 0:
                await asyncio.sleep(0)  # others have their turn
        outcomes += await self._send_texts(texts)
        outcomes += await asyncio.gather(*(self._send(row, reply) for row, reply in with_files))
        await self._record(outcomes)

    async def _send_texts(self, emails: Sequence[tuple[Row, Reply]]) -> list[tuple[Row, Outcome | Exception]]:
        if len(emails) > 1:
            try:
                outcomes = await send_texts(self._client, emails)
            except Outage as outage:
                return [(row, outage) for row, _ in emails]
            except Exception as error:  # noqa: BLE001 - such as a release without this call
                log.info("emails are sent one by one", error=f"{type(error).__name__}: {error}")
            else:
                return [(row, outcome) for (row, _), outcome in zip(emails, outcomes, strict=True)]
        return list(await asyncio.gather(*(self._send(row, reply) for row, reply in emails)))

    async def _send(self, row: Row, reply: Reply) -> tuple[Row, Outcome | Exception]:
        try:
            return row, await send(self._client, row, reply)
        except Exception as error:  # noqa: BLE001 - an outcome
            return row, error

    async def _record(self, outcomes: Sequence[tuple[Row, Outcome | Exception]]) -> None:
        saved = [(row["id"], outcome) for row, outcome in outcomes if isinstance(outcome, Saved)]
        self._outage = next((outcome for _, outcome in outcomes if isinstance(outcome, Outage)), None)
        async with self._acquire() as connection:
            if saved:
                failpoint("inbound-posted")
                columns = [(id_, outcome.id, outcome.number, outcome.reason) for id_, outcome in saved]
                await connection.execute(_POSTED, self._lease, *zip(*columns, strict=True))
                failpoint("inbound-recorded")
            for id_, message in saved:
                log.info("email posted", inbound_id=str(id_), message_id=str(message.id))
            for row, outcome in outcomes:
                if not isinstance(outcome, Saved):
                    await self._settle(connection, row, outcome)

    async def _settle(self, connection: Driver, row: Row, outcome: Exception) -> None:
        """Record what became of an email that is not posted now."""
        email_id, failing = row["id"], False
        match outcome:
            case Ended():
                state = outcome.state
                if row["kind"] == InboundKind.CONVERSATION and outcome.reason is InboundReason.NO_LONGER_ALLOWED:
                    state = InboundState.HELD  # for another customer
                await _end(connection, email_id, self._lease, state, outcome.reason)
                return
            case Limited():
                log.info("email waits for the limits of its author", inbound_id=str(email_id), seconds=outcome.seconds)
                await connection.execute(_WAIT, email_id, self._lease, outcome.seconds)
                return
            case Outage():
                text = str(outcome)
                log.warning("conversations service unavailable, email waits", inbound_id=str(email_id), error=text)
            case _:
                failing, text = True, f"{type(outcome).__name__}: {outcome}"
                log.warning("email not posted, retrying", inbound_id=str(email_id), error=text)
                log.debug("email not posted", exc_info=outcome)
        delay = RETRY_SECONDS[min(row["tries"], len(RETRY_SECONDS) - 1)]
        await connection.execute(_RETRY, email_id, self._lease, delay, failing, HEAD_WAITS)


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
returning id, conversation_id, user_id, read_up_to, tries, kind, posted_by, from_address, size
"""  # noqa: S608 - built from constants
_POSTED: Final = f"""
update inbound_emails as email set state = '{InboundState.POSTED}', message_id = posted.message_id,
    message_number = posted.number, reason = posted.reason, lease_id = null, lease_until = null, failing_since = null,
    finished_at = clock_timestamp()
from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[]) as posted (id, message_id, number, reason)
where email.id = posted.id and lease_id = $1 and state = '{InboundState.RECEIVED}'
"""  # noqa: S608 - built from constants
# The deletion that the conversations service knows of may have been handled here before the email came.
_END: Final = f"""
with ended as (
update inbound_emails set state = $3, reason = $4, lease_id = null, lease_until = null,
    finished_at = case when $3 <> '{InboundState.HELD}' then clock_timestamp() end,
    original = case when not deleted then original end, from_address = case when not deleted then from_address end
from (
    select $4 = '{InboundReason.CONVERSATION_DELETED}' or exists (
        select from inbound_emails as ended join people as known on known.id = ended.user_id
            join people on people.id = coalesce(known.merged_into, known.id)
        where ended.id = $1 and people.deleted
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
