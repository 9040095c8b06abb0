"""Deletion of orders."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import Order


async def delete_order(session: AsyncSession, order_id: str) -> None:
    """Mark an order as deleted; conversations about it still show its last state.

    Does nothing if the order is unknown or already deleted.
    """
    order = await session.get(Order, order_id, with_for_update=True)
    if order is not None and order.deleted_at is None:
        order.deleted_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
