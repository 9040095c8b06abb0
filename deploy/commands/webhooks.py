"""`chats webhooks`: the store's webhooks and their deliveries, for operators."""

from collections.abc import Sequence
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.commands.operations import on_conversations
from services.conversations.models import Webhook
from services.conversations.rules import DeliveryState
from services.conversations.webhooks.deliveries import DeliveryRow, list_deliveries, replay_delivery
from services.conversations.webhooks.registry import list_webhooks
from shared.settings import SettingsError
from shared.text import printable


def print_webhooks() -> None:
    """Print all webhooks, with how each is."""
    for webhook in on_conversations(list_webhooks):
        typer.echo(f"{webhook.id}  {printable(webhook.url)}  {','.join(webhook.types)}  {_condition(webhook)}")


def print_deliveries(webhook_id: UUID, state: str | None, limit: int) -> None:
    """Print a webhook's newest deliveries. Answers are the store's, and not shown."""
    if state is not None and state not in set(DeliveryState):
        raise SettingsError(f"there is no state {printable(state)}: {', '.join(DeliveryState)}")

    async def read(session: AsyncSession) -> Sequence[DeliveryRow]:
        rows, _ = await list_deliveries(session, webhook_id, state=state, limit=limit)
        return rows

    for row in on_conversations(read):
        outcome = " ".join(str(part) for part in (row.status, row.error) if part is not None)
        typer.echo(
            f"{row.id}  {row.at:%Y-%m-%d %H:%M:%S}  {row.type}  {row.conversation_id or '-'}  {row.state}"
            f"  {row.attempts} attempt{'' if row.attempts == 1 else 's'}  {outcome}".rstrip()
        )


def replay(webhook_id: UUID, delivery_id: int) -> None:
    """Send an event again."""
    row = on_conversations(lambda session: replay_delivery(session, webhook_id, delivery_id))
    typer.echo(f"It will be sent as delivery {row.id}.")


def _condition(webhook: Webhook) -> str:
    if webhook.disabled_at is not None:
        return f"disabled {webhook.disabled_at:%Y-%m-%d %H:%M} ({webhook.disabled_reason})"
    if webhook.failing_since is not None:
        return f"failing since {webhook.failing_since:%Y-%m-%d %H:%M}, {webhook.failures} times"
    return "enabled"
