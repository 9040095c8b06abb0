"""Group commit: concurrent posts share a statement and a commit, but not their errors (ADR 0003).

A post runs at once while fewer than `MAX_IN_FLIGHT` statements run; posts that arrive meanwhile form the next batch. So
posts of an idle process never wait, and a busy process shares round trips and commits among many posts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import asyncpg

from services.conversations.messaging.posting import Post, Posted, log_posted, post_message, post_messages
from shared.batcher import Batcher
from shared.database.transactions import ConnectionProvider, SessionFactory, request_connection, run_transaction

MAX_IN_FLIGHT: Final = 2  # concurrent statements
BATCH: Final = 64  # posts in a statement

# Errors that one post of a batch causes for all of them. Nothing was saved, so each can be posted alone.
_CAUSED_BY_ONE_POST = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)


class GroupCommit:
    """Batches the posts of a process that are not part of a larger transaction."""

    def __init__(
        self, sessions: SessionFactory, acquire: ConnectionProvider, on_saved: Callable[[], None] = lambda: None
    ) -> None:
        """`on_saved` is called after each commit of a batch."""
        self._sessions = sessions
        self._on_saved = on_saved
        self._acquire = acquire
        # A statement changes a row once, so it has one post for each conversation.
        self._batcher = Batcher(
            self._save_batch, BATCH, max_in_flight=MAX_IN_FLIGHT, key=lambda post: post.conversation_id
        )

    async def save(self, post: Post) -> Posted:
        """Save a message as `post_message` does: together with concurrent ones, or alone, as always with files."""
        if not post.attachments and (posted := await self._batcher.submit(post)) is not None:
            log_posted(posted.id, posted.conversation_id)
            return posted
        # This waits for the row, or raises the reason.
        return await run_transaction(self._sessions, partial(post_message, post=post))

    async def _save_batch(self, posts: Sequence[Post]) -> Sequence[Posted | None]:
        """Save posts in one statement; return None for each that was not saved."""
        try:
            async with request_connection(self._acquire) as connection:
                saved = await post_messages(connection, posts)
        except _CAUSED_BY_ONE_POST:
            saved = {}
        if saved:
            self._on_saved()
        return [saved.get(post.conversation_id) for post in posts]
