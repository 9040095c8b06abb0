"""Which admins have read which conversations: one row for each of them and hour, written outside of requests.

A process remembers what it has written in this hour, and adds the rest in batches. Processes that see the same read
write one row together. A process that is killed may lose the reads of the last seconds.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text

from services.conversations.rules import AuditAction
from shared.database.transactions import SessionFactory, transaction
from shared.observability.logs import Origin, current_origin
from shared.settings import Role

FLUSH_EVERY: Final = 5.0  # seconds
MAX_KNOWN: Final = 50_000  # reads remembered; beyond that, the database finds the repeated ones
MAX_PENDING: Final = 10_000  # reads that wait for a database that is away; later ones are not recorded
HOUR: Final = 3_600  # seconds

log = structlog.get_logger()

Read = tuple[str, UUID]  # the admin's id, and the conversation


class ReadLog:
    """The reads that this process has seen in the present hour."""

    def __init__(self, sessions: SessionFactory, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since 1970."""
        self._sessions, self._clock = sessions, clock
        self._hour = 0
        self._known: set[Read] = set()
        self._pending: dict[tuple[int, Read], Origin] = {}

    def note(self, admin_id: str, conversation_id: UUID) -> None:
        """Note that an admin reads a conversation in the current request."""
        hour = int(self._clock()) // HOUR
        if hour != self._hour or len(self._known) >= MAX_KNOWN:
            self._hour, self._known = hour, set()
        read = (admin_id, conversation_id)
        if read not in self._known and len(self._pending) < MAX_PENDING:
            self._known.add(read)
            self._pending[hour, read] = current_origin()

    async def flush(self) -> None:
        """Write what was noted. After an error it is tried again with the next flush."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        keys = [(hour * HOUR, admin_id, conversation_id) for hour, (admin_id, conversation_id) in pending]
        hours, admins, conversations = map(list, zip(*keys, strict=True))
        origins = list(pending.values())
        try:
            async with transaction(self._sessions) as session:
                await session.execute(
                    _ADD,
                    {
                        "hours": hours,
                        "admins": admins,
                        "conversations": conversations,
                        "addresses": [origin.address for origin in origins],
                        "requests": [origin.request_id for origin in origins],
                    },
                )
        except BaseException:
            self._pending = pending | self._pending
            raise

    async def run(self) -> None:
        """Write what was noted every few seconds, and at the end."""
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY)
                await self._try_to_flush()
        finally:
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - it must not end the process
            log.warning("reads not recorded, retrying", error=type(error).__name__)


_ADD = text(f"""
    insert into audit_entries (at, actor_id, actor_role, action, conversation_id, address, request_id)
    select to_timestamp(hour), admin, '{Role.ADMIN}', '{AuditAction.CONVERSATION_READ}', conversation, address, request
    from unnest(
        cast(:hours as float8[]), cast(:admins as text[]), cast(:conversations as uuid[]),
        cast(:addresses as text[]), cast(:requests as uuid[])
    ) as seen (hour, admin, conversation, address, request)
    on conflict (at, actor_id, conversation_id) where action = '{AuditAction.CONVERSATION_READ}' do nothing
""")  # noqa: S608 - built from constants
