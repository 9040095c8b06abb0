"""Group commit: concurrent posts share a statement and a commit, but not their errors (ADR 0003).

A post runs at once if a lane is free; posts that arrive while all lanes are busy form the next batch. So posts of a
quiet process never wait, and a busy process shares round trips and commits among many posts.
"""

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from services.conversations.messaging.posting import Post, Posted, log_posted, post_message, post_messages
from shared.database import ConnectionProvider, SessionFactory, request_connection, request_transaction

MAX_IN_FLIGHT: Final = 2  # concurrent statements
BATCH: Final = 64  # posts in a statement

# Errors that one post of a batch causes for all of them. Nothing was saved, so each can be posted alone.
_CAUSED_BY_ONE_POST = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)


@dataclass(frozen=True, slots=True)
class _Waiting:
    post: Post
    saved: "asyncio.Future[Posted | None]"


class GroupCommit:
    """Batches the posts of a process that are not part of a larger transaction."""

    def __init__(self, sessions: SessionFactory, acquire: ConnectionProvider) -> None:
        self._sessions = sessions
        self._acquire = acquire
        self._waiting: list[_Waiting] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    async def save(self, post: Post) -> Posted:
        """Save a message as `post_message` does, in its own transaction or together with concurrent posts."""
        waiting = _Waiting(post, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._in_flight) < MAX_IN_FLIGHT:
            lane = asyncio.create_task(self._run())
            self._in_flight.add(lane)
            lane.add_done_callback(self._in_flight.discard)
        if (posted := await waiting.saved) is not None:
            log_posted(posted)
            return posted
        async with request_transaction(self._sessions) as session:  # waits for locks, or raises the reason
            return await post_message(session, post)

    async def _run(self) -> None:
        while batch := self._next_batch():
            try:
                async with request_connection(self._acquire) as connection:
                    saved = await post_messages(connection, [waiting.post for waiting in batch.values()])
            except _CAUSED_BY_ONE_POST:
                saved = {}
            except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
                for waiting in batch.values():
                    if not waiting.saved.done():
                        waiting.saved.set_exception(error)
                continue
            for conversation_id, waiting in batch.items():
                if not waiting.saved.done():  # done: the caller was cancelled
                    waiting.saved.set_result(saved.get(conversation_id))

    def _next_batch(self) -> dict[UUID, _Waiting]:
        """Remove and return waiting posts, one per conversation, because a statement updates a row only once."""
        batch: dict[UUID, _Waiting] = {}
        for waiting in self._waiting[:BATCH]:
            batch.setdefault(waiting.post.conversation_id, waiting)
        in_batch = set(map(id, batch.values()))
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in in_batch]
        return batch
