"""Idempotency keys of requests that create something other than a message."""

from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.models import CreateKey


async def claim_key(
    session: AsyncSession, caller_id: str, key: IdempotencyKey, chosen_id: UUID | None = None
) -> tuple[UUID, bool]:
    """Claim a key; return the id for what the request creates, and whether an earlier request has created it.

    The id is a new one, unless one is chosen. Waits for concurrent requests with the same key. Raises
    `IdempotencyKeyReused`.
    """
    claim = (
        insert(CreateKey)
        .values(
            caller_id=caller_id, key=key.key, request_hash=key.request_hash, conversation_id=chosen_id or func.uuidv7()
        )
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


async def set_result(session: AsyncSession, caller_id: str, key: IdempotencyKey, result: UUID) -> None:
    """Replace the id of a key that this transaction has claimed, for a result whose id is known only afterwards."""
    claimed = (CreateKey.caller_id == caller_id) & (CreateKey.key == key.key)
    await session.execute(update(CreateKey).where(claimed).values(conversation_id=result))
