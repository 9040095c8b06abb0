"""Idempotency keys of requests that create something other than a message."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.models import CreateKey


async def claim_key(session: AsyncSession, caller_id: str, key: IdempotencyKey | None) -> tuple[UUID | None, bool]:
    """Claim a key; return the id for what the request creates, and whether an earlier request has created it.

    Without a key, there is no id. Waits for concurrent requests with the same key. Raises `IdempotencyKeyReused`.
    """
    if key is None:
        return None, False
    claim = (
        insert(CreateKey)
        .values(caller_id=caller_id, key=key.key, request_hash=key.request_hash, conversation_id=func.uuidv7())
        .on_conflict_do_nothing()
        .returning(CreateKey.conversation_id)
    )
    claimed_id: UUID | None = await session.scalar(claim)
    if claimed_id is not None:
        return claimed_id, False
    earlier = await session.get_one(CreateKey, (caller_id, key.key))
    if earlier.request_hash != key.request_hash:
        raise IdempotencyKeyReused
    return earlier.conversation_id, True


async def act_once(
    session: AsyncSession, caller_id: str, key: IdempotencyKey | None, act: Callable[[], Awaitable[dict[str, Any]]]
) -> tuple[dict[str, Any], bool]:
    """Return what `act` returns, or what it returned for an earlier request with the key, and whether it is that.

    The result must fit into JSON. Waits for concurrent requests with the same key. Raises `IdempotencyKeyReused`.
    """
    if key is None:
        return await act(), False
    _, replayed = await claim_key(session, caller_id, key)
    claimed = await session.get_one(CreateKey, (caller_id, key.key))
    if replayed:
        return claimed.result or {}, True
    claimed.result = await act()
    await session.flush()
    return claimed.result, False
