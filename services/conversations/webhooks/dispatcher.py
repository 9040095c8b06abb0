"""Send deliveries: one process at a time, many webhooks at once, each conversation in order.

The process that holds the lease reads the log and sends; the others stand by. What it sends is known to it alone, so a
delivery costs two writes: its row, and its outcome. If it dies, another process takes over when the lease ends, and
sends again what had no outcome. A process that was frozen for longer can record nothing.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter

from services.conversations.rules import WebhookError
from services.conversations.webhooks.bodies import BODY_COLUMNS, BODY_JOINS, make_body
from services.conversations.webhooks.log_reader import read_round
from services.conversations.webhooks.outbox import IS_ENABLED
from services.conversations.webhooks.results import BREAKER_AFTER, Claimed, Result, record_results
from services.conversations.webhooks.sending import TIMEOUT, Outcome, Sender
from services.conversations.webhooks.signing import sign
from shared.batcher import Batcher
from shared.database.transactions import ConnectionProvider, SessionFactory, transaction, transaction_driver
from shared.process.failpoints import failpoint
from shared.process.stopping import pause

LEASE: Final = 20.0  # seconds
RENEW_EVERY: Final = 4.0  # seconds
LOOK_EVERY: Final = 0.2  # seconds, for new events and for what is due
IDLE_EVERY: Final = 1.0  # seconds, while no webhook is enabled, or another process sends
PER_WEBHOOK: Final = 10  # attempts at a time
AHEAD: Final = 40  # deliveries of a webhook that are loaded beyond these
STALE: Final = 2.0  # seconds after which what was loaded is loaded again: its conversation may be deleted
RECORD_BATCH: Final = 200  # outcomes in one transaction
RECORD_EVERY: Final = 0.01  # seconds between two of these

USER_AGENT: Final = "Customer-Chats-Webhooks/1"

ATTEMPTS = Counter("chats_webhook_attempts_total", "Attempts to deliver webhooks by this process", ["outcome"])

log = structlog.get_logger()


class Dispatcher:
    """Sends what is due while it holds the lease."""

    def __init__(
        self, sessions: SessionFactory, acquire: ConnectionProvider, sender: Sender, schedule: Sequence[float]
    ) -> None:
        self.holder = uuid4()
        self._sessions = sessions
        self._acquire = acquire
        self._sender = sender
        self._schedule = schedule
        self._held_until = -1.0  # by this process's own clock, which is never ahead of the database's lease
        self._renew_at = -1.0
        self._queues: dict[UUID, _Queue] = {}
        self._news = asyncio.Event()
        self._recorder = Batcher(self._record, max_batch_size=RECORD_BATCH, linger=RECORD_EVERY)
        self._recording: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Read the log and send until `stop`, then let the attempts under way end, and release the lease."""
        try:
            while not stop.is_set():
                try:
                    await self._round(stop)
                except Exception as error:  # it must not end the other jobs
                    log.warning("sending webhooks failed, retrying", error=type(error).__name__)
                    log.debug("sending webhooks failed", exc_info=True)
                    await pause(stop, IDLE_EVERY)
            for queue in self._queues.values():
                queue.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await asyncio.gather(*(task for queue in self._queues.values() for task in queue.tasks))
                    await asyncio.gather(*self._recording)
        finally:
            await self._release()

    async def _round(self, stop: asyncio.Event) -> None:
        """Do what there is to do now, then wait for more."""
        if not await self._hold():
            for queue in self._queues.values():
                queue.clear()
            await pause(stop, IDLE_EVERY)
            return
        self._news.clear()
        while not stop.is_set() and await read_round(self._sessions, self._acquire, self.holder):
            pass
        await self._load()
        waiting = [asyncio.create_task(self._news.wait()), asyncio.create_task(stop.wait())]
        _, pending = await asyncio.wait(waiting, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _hold(self) -> bool:
        """Take the lease, or renew it now and then; return whether this process holds it.

        Without an enabled webhook nobody takes it, and nothing is written.
        """
        now = time.monotonic()
        if now < self._renew_at:
            return True
        async with transaction(self._sessions) as session:
            held = await (await transaction_driver(session)).fetchval(_HOLD, self.holder, LEASE)
        if held is None:
            self._held_until = self._renew_at = -1.0
            return False
        self._held_until, self._renew_at = now + LEASE, now + RENEW_EVERY
        return True

    async def _release(self) -> None:
        if self._held_until < 0:
            return
        try:
            async with transaction(self._sessions) as session:
                await (await transaction_driver(session)).execute(_RELEASE, self.holder)
        except Exception as error:  # noqa: BLE001 - the lease ends by itself
            log.warning("the lease of webhooks was not released", error=type(error).__name__)

    async def _load(self) -> None:
        """Load what is due, and start to send it."""
        held = [delivery_id for queue in self._queues.values() for delivery_id in queue.held]
        full = [webhook_id for webhook_id, queue in self._queues.items() if len(queue.held) > PER_WEBHOOK + AHEAD // 2]
        async with self._acquire() as driver:
            rows = await driver.fetch(_DUE, held, full, PER_WEBHOOK + AHEAD, BREAKER_AFTER)
        loaded_at = time.monotonic()
        for row in rows:
            queue = self._queues.setdefault(row["webhook_id"], _Queue())
            # While its breaker is open, a webhook gets one attempt at a time.
            queue.width = 1 if row["is_probe"] else PER_WEBHOOK
            queue.waiting.append((loaded_at, row))
            queue.held.add(row["id"])
        for queue in self._queues.values():
            while queue.waiting and len(queue.tasks) < queue.width:
                task = asyncio.create_task(self._work(queue))
                queue.tasks.add(task)
                task.add_done_callback(queue.tasks.discard)
                await asyncio.sleep(0)  # it takes its first delivery, so that no more are started than needed

    async def _work(self, queue: "_Queue") -> None:
        """Send what waits in a queue, one after the other."""
        while queue.waiting and len(queue.tasks) <= queue.width:
            loaded_at, row = queue.waiting.popleft()
            now = time.monotonic()
            if now - loaded_at > STALE or now + TIMEOUT > self._held_until:
                queue.held.discard(row["id"])
            else:
                recording = asyncio.create_task(self._finish(queue, row, await self._send(row)))
                self._recording.add(recording)
                recording.add_done_callback(self._recording.discard)
            if len(queue.waiting) == AHEAD // 2:
                self._news.set()

    async def _finish(self, queue: "_Queue", row: Mapping[str, Any], outcome: Outcome | None) -> None:
        """Record an outcome. The delivery is held until then, so that it is not sent twice."""
        try:
            await self._recorder.submit(Result(Claimed(*(row[name] for name in Claimed._fields)), outcome))
        except Exception as error:  # noqa: BLE001 - it is sent again
            log.warning("outcome of a webhook not recorded", delivery_id=row["id"], error=type(error).__name__)
        finally:
            queue.held.discard(row["id"])
            self._news.set()

    async def _send(self, row: Mapping[str, Any]) -> Outcome | None:
        try:
            body = make_body(row)
        except Exception as error:  # noqa: BLE001 - it must not hold up the others
            # Without the error's text, which may quote a message.
            log.error("webhook not rendered", delivery_id=row["id"], error=type(error).__name__)  # noqa: TRY400 - a traceback may quote a message
            return Outcome(error=WebhookError.BODY)
        if body is None:
            return None
        timestamp = int(time.time())
        event_id = str(row["event_id"])
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(row["secrets"], event_id, timestamp, body),
        }
        outcome = await self._sender.send(row["url"], headers, body)
        failpoint("webhook-sent")
        ATTEMPTS.labels(outcome.error or "delivered").inc()
        return outcome

    async def _record(self, results: Sequence[Result]) -> Sequence[None]:
        recorded = await record_results(self._sessions, self.holder, results, self._schedule)
        if not recorded.kept:
            self._renew_at = self._held_until = -1.0
        for webhook_id in recorded.stopped & self._queues.keys():
            self._queues[webhook_id].clear()
        return [None] * len(results)


class _Queue:
    """What is loaded of a webhook's deliveries: `waiting` ones and those that are sent. `held` are the ids of all."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, Mapping[str, Any]]] = deque()
        self.held: set[int] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.width = PER_WEBHOOK

    def clear(self) -> None:
        """Drop what is not sent yet: it is loaded again."""
        self.held.difference_update(row["id"] for _, row in self.waiting)
        self.waiting.clear()


_HOLD: Final = f"""
    update webhook_progress set holder = $1, held_until = clock_timestamp() + make_interval(secs => $2)
    where (holder is null or holder = $1 or held_until < clock_timestamp())
        and exists (select from webhooks where {IS_ENABLED})
    returning true
"""  # noqa: S608 - a constant
_RELEASE: Final = "update webhook_progress set holder = null, held_until = null where holder = $1"
# `now()` is this statement's time, and an index can be searched for it; not so for the moving `clock_timestamp()`.
_DUE: Final = f"""
    with webhook as (
        select id, url, failures >= $4 as is_probe,
            array_remove(array[secret, case when old_secret_until > clock_timestamp() then old_secret end], null)
                || array(
                    select older ->> 'secret' from jsonb_array_elements(older_secrets) as older
                    where (older ->> 'until')::timestamptz > clock_timestamp()
                ) as secrets
        from webhooks
        where {IS_ENABLED} and (paused_until is null or paused_until <= now()) and id <> all($2::uuid[])
    )
    select delivery.id, delivery.lane, delivery.attempts, delivery.event_id, webhook.url, webhook.secrets,
        webhook.is_probe, {BODY_COLUMNS}
    from webhook cross join lateral (
        select * from webhook_deliveries
        where webhook_id = webhook.id and state = 'pending' and due_at <= now() and id <> all($1::bigint[])
        order by due_at, id limit case when webhook.is_probe then 1 else $3 end
    ) as delivery
    {BODY_JOINS}
    order by delivery.due_at, delivery.id
"""  # noqa: S608 - built from constants
