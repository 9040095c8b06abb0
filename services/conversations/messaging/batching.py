"""Posts of the same moment share a statement and a commit, and keep their errors apart (ADR 0003).

A post that finds nobody under way goes at once; those that come meanwhile go together after it. So a quiet process
waits for nothing, and a busy one pays for a round trip and a commit once for many.
"""

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from services.conversations.messaging.posting import Post, Posted, log_posted, post_message, post_messages
from shared.database import ConnectionProvider, SessionFactory, request_connection, request_transaction

MAX_IN_FLIGHT: Final = 2  # statements under way at the same time
BATCH: Final = 64  # posts in one

# What one post of several has done to them all, and surely nothing was saved: data or keys that do not fit.
_SPOILED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)


@dataclass(frozen=True, slots=True)
class _Waiting:
    post: Post
    saved: "asyncio.Future[Posted | None]"


class GroupCommit:
    """The posts of a process that stand alone, in no transaction of a larger work."""

    def __init__(self, sessions: SessionFactory, acquire: ConnectionProvider) -> None:
        self._sessions = sessions
        self._acquire = acquire
        self._waiting: list[_Waiting] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    async def save(self, post: Post) -> Posted:
        """Save a message, as `post_message` does, in a transaction of its own or of some at the same moment."""
        waiting = _Waiting(post, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._in_flight) < MAX_IN_FLIGHT:
            lane = asyncio.create_task(self._run())
            self._in_flight.add(lane)
            lane.add_done_callback(self._in_flight.discard)
        if (posted := await waiting.saved) is not None:
            log_posted(posted)
            return posted
        async with request_transaction(self._sessions) as session:  # waits, or says what is wrong
            return await post_message(session, post)

    async def _run(self) -> None:
        while batch := self._take():
            try:
                async with request_connection(self._acquire) as connection:
                    saved = await post_messages(connection, [each.post for each in batch.values()])
            except _SPOILED:
                saved = {}
            except Exception as error:  # noqa: BLE001 - it is each one's own, whatever it is
                for each in batch.values():
                    if not each.saved.done():
                        each.saved.set_exception(error)
                continue
            for conversation_id, each in batch.items():
                if not each.saved.done():  # whoever is gone did not wait for the answer
                    each.saved.set_result(saved.get(conversation_id))

    def _take(self) -> dict[UUID, _Waiting]:
        """Take what waits, one of each conversation: a statement changes a row once."""
        batch: dict[UUID, _Waiting] = {}
        for each in self._waiting[:BATCH]:
            batch.setdefault(each.post.conversation_id, each)
        taken = set(map(id, batch.values()))
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        return batch
