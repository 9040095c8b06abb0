"""The webhooks of the store: add, change, disable, delete, and new secrets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.errors import TooManyWebhooks
from services.conversations.messaging.create_keys import act_once
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.models import FeedHead, Webhook
from services.conversations.rules import ActorRole, AuditAction, WebhookOff
from services.conversations.webhooks.outbox import lock_lines
from services.conversations.webhooks.signing import make_secret
from shared.auth.principal import Principal
from shared.problems import NotFound

MAX_WEBHOOKS: Final = 20
MAX_OLD_SECRETS: Final = 5  # that sign besides the present one: each makes requests longer


@dataclass(frozen=True, slots=True)
class Changes:
    """The fields of a webhook to change; None leaves one as it is. An empty description removes it."""

    url: str | None = None
    types: Sequence[str] | None = None
    description: str | None = None
    enabled: bool | None = None


async def create_webhook(
    session: AsyncSession,
    caller: Principal,
    *,
    url: str,
    types: Sequence[str],
    description: str | None,
    webhook_id: UUID | None = None,
) -> Webhook:
    """Add a webhook for what happens from now on. Raises `TooManyWebhooks`."""
    await lock_lines(session)  # also makes concurrent requests count each other
    count = await session.scalar(select(func.count()).select_from(Webhook).where(Webhook.deleted_at.is_(None)))
    if (count or 0) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"There are {MAX_WEBHOOKS} webhooks, and no more are possible. Delete one first.")
    webhook = Webhook(
        url=url,
        types=list(types),
        description=description or None,
        secret=make_secret(),
        after_position=await _head(session),
    )
    if webhook_id is not None:
        webhook.id = webhook_id
    session.add(webhook)
    await session.flush()
    await session.refresh(webhook)
    await _record(session, AuditAction.WEBHOOK_CREATED, caller, webhook.id)
    return webhook


async def list_webhooks(session: AsyncSession) -> Sequence[Webhook]:
    """Return all webhooks, oldest first."""
    query = select(Webhook).where(Webhook.deleted_at.is_(None)).order_by(Webhook.id)
    return (await session.scalars(query)).all()


async def get_webhook(session: AsyncSession, webhook_id: UUID, *, lock: bool = False) -> Webhook:
    """Return a webhook. Raises `NotFound`."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.deleted_at.is_(None))
    if lock:
        query = query.with_for_update()
    webhook: Webhook | None = await session.scalar(query.execution_options(populate_existing=True))
    if webhook is None:
        raise NotFound("There is no such webhook.")
    return webhook


async def change_webhook(session: AsyncSession, caller: Principal, webhook_id: UUID, changes: Changes) -> Webhook:
    """Change a webhook. Disabled, it is told of nothing that happens, and what is pending waits.

    Enabled again, it gets what was pending, and what happens from now on.
    """
    webhook = await get_webhook(session, webhook_id, lock=True)
    changed = []
    if changes.url is not None and changes.url != webhook.url:
        webhook.url = changes.url
        webhook.failures, webhook.failing_since, webhook.paused_until = 0, None, None
        changed.append("url")
    if changes.types is not None and list(changes.types) != webhook.types:
        webhook.types = list(changes.types)
        changed.append("types")
    if changes.description is not None and (changes.description or None) != webhook.description:
        webhook.description = changes.description or None
        changed.append("description")
    if changes.enabled is not None and changes.enabled is not (webhook.disabled_at is None):
        if changes.enabled:
            await _enable(session, webhook)
        else:
            webhook.disabled_at, webhook.disabled_reason = func.clock_timestamp(), WebhookOff.REQUEST
        changed.append("enabled")
    if changed:
        await session.flush()
        await session.refresh(webhook)
        await _record(session, AuditAction.WEBHOOK_CHANGED, caller, webhook.id, {"fields": changed})
    return webhook


async def replace_secret(session: AsyncSession, caller: Principal, webhook_id: UUID, keep_hours: float) -> Webhook:
    """Give a webhook a new secret. Those that sign now also sign for `keep_hours`, unless they end before.

    So a request that is repeated because its response was lost does not end the secret that the endpoint knows.
    """
    webhook = await get_webhook(session, webhook_id, lock=True)
    if keep_hours:
        now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        until = now + timedelta(hours=keep_hours)
        older = [(each["secret"], datetime.fromisoformat(each["until"])) for each in webhook.older_secrets]
        if webhook.old_secret and webhook.old_secret_until:
            older.insert(0, (webhook.old_secret, webhook.old_secret_until))
        webhook.older_secrets = [
            {"secret": secret, "until": min(end, until).isoformat()} for secret, end in older if end > now
        ][: MAX_OLD_SECRETS - 1]
        webhook.old_secret, webhook.old_secret_until = webhook.secret, until
    else:
        webhook.old_secret, webhook.old_secret_until, webhook.older_secrets = None, None, []
    webhook.secret = make_secret()
    await session.flush()
    await session.refresh(webhook)
    await _record(session, AuditAction.WEBHOOK_ROTATED, caller, webhook.id)
    return webhook


async def replace_secret_once(
    session: AsyncSession, caller: Principal, webhook_id: UUID, keep_hours: float, key: IdempotencyKey | None
) -> tuple[Webhook, bool, bool]:
    """Replace a webhook's secret, once for a key. Return the webhook, and whether to show its secret: it is this key's.

    The third value is whether an earlier request with the key has replaced it. Raises `IdempotencyKeyReused`.
    """

    async def replace() -> dict[str, Any]:
        return {"secret_sha256": _hash(await replace_secret(session, caller, webhook_id, keep_hours))}

    made, replayed = await act_once(session, caller.id, key, replace)
    webhook = await get_webhook(session, webhook_id)
    return webhook, _hash(webhook) == made["secret_sha256"], replayed


async def delete_webhook(session: AsyncSession, caller: Principal, webhook_id: UUID) -> None:
    """Delete a webhook, and the secrets with it. The jobs delete its deliveries, and at last its row."""
    webhook = await get_webhook(session, webhook_id, lock=True)
    webhook.deleted_at = func.clock_timestamp()
    webhook.secret, webhook.old_secret, webhook.older_secrets = "", None, []
    webhook.description, webhook.types = None, []
    await session.flush()
    await _record(session, AuditAction.WEBHOOK_DELETED, caller, webhook_id)


async def _enable(session: AsyncSession, webhook: Webhook) -> None:
    webhook.disabled_at = webhook.disabled_reason = None
    webhook.failures, webhook.failing_since, webhook.paused_until = 0, None, None
    webhook.after_position, webhook.since = await _head(session), func.clock_timestamp()


def _hash(webhook: Webhook) -> str:
    return sha256(webhook.secret.encode()).hexdigest()


async def _head(session: AsyncSession) -> int:
    return (await session.execute(select(FeedHead.head))).scalar_one()


async def _record(
    session: AsyncSession, action: AuditAction, caller: Principal, webhook_id: UUID, data: dict[str, Any] | None = None
) -> None:
    await record(session, Act(action, caller.id, target_id=str(webhook_id), data=data, role=ActorRole(caller.role)))
