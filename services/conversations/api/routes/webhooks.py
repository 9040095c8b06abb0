"""Routes of webhooks, for the store's backend."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, Path, Query, Request, Response

from services.conversations.api.dependencies import IdempotencyKeyHeader, key_of, mark_replay
from services.conversations.api.schemas.webhooks import (
    ChangeWebhook,
    CreateWebhook,
    DeliveryOut,
    ReplaceSecret,
    Replayed,
    ReplayRange,
    WebhookOut,
    WebhookWithSecret,
)
from services.conversations.api.state import api_state
from services.conversations.errors import IdempotencyKeyReused, TooManyWebhooks
from services.conversations.messaging.create_keys import act_once, claim_key
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.rules import DeliveryState
from services.conversations.webhooks import deliveries, registry
from services.conversations.webhooks.addresses import check_url
from shared.api.dependencies import Cursor, DbSession, Limit, require
from shared.api.routing import ApiRouter
from shared.auth.principal import Principal
from shared.paging import DEFAULT_LIMIT, Page
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses
from shared.settings import Role

log = structlog.get_logger()

router = ApiRouter(
    prefix="/api/v1/store/webhooks",
    tags=["Webhooks"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_ONE_DAY = ReplaceSecret()

Store = Annotated[Principal, Depends(require(Role.STORE))]
WebhookId = Annotated[UUID, Path(description="The webhook's id.")]
DeliveryId = Annotated[int, Path(ge=1, le=deliveries.MAX_ID, description="The delivery's id.")]
State = Annotated[DeliveryState | None, Query(description="Only deliveries in this state.")]
OfConversation = Annotated[UUID | None, Query(description="Only deliveries about this conversation.")]


@router.post(
    "", summary="Create a webhook", status_code=201, responses=problem_responses(TooManyWebhooks, IdempotencyKeyReused)
)
async def create_webhook(
    body: CreateWebhook,
    request: Request,
    caller: Store,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> WebhookWithSecret:
    """Create a webhook for what happens from now on. Its secret is in this response only. Up to 20 are possible."""
    check_target(request, body.url)
    webhook_id, replayed = await claim_key(session, caller.id, key_of(key, "webhook", body))
    mark_replay(response, replayed=replayed)
    if webhook_id is not None and replayed:
        return WebhookWithSecret.of(await registry.get_webhook(session, webhook_id), shown=False)
    webhook = await registry.create_webhook(
        session, caller, url=body.url, types=body.types, description=body.description, webhook_id=webhook_id
    )
    response.headers["Location"] = f"{router.prefix}/{webhook.id}"
    return WebhookWithSecret.of(webhook)


@router.get("", summary="List webhooks")
async def list_webhooks(_: Store, session: DbSession) -> Page[WebhookOut]:
    """List all webhooks, oldest first. They are on one page."""
    return Page(items=[WebhookOut.of(webhook) for webhook in await registry.list_webhooks(session)], next_cursor=None)


@router.get("/{webhook_id}", summary="Get a webhook", responses=problem_responses(NotFound))
async def get_webhook(webhook_id: WebhookId, _: Store, session: DbSession) -> WebhookOut:
    """Return a webhook."""
    return WebhookOut.of(await registry.get_webhook(session, webhook_id))


@router.patch("/{webhook_id}", summary="Change a webhook", responses=problem_responses(NotFound))
async def change_webhook(
    webhook_id: WebhookId, body: ChangeWebhook, request: Request, caller: Store, session: DbSession
) -> WebhookOut:
    """Change a webhook. Enabled again, it gets what was pending, and then what happens from now on."""
    if body.url is not None:
        check_target(request, body.url)
    changes = registry.Changes(**body.model_dump(exclude_none=True))
    if "description" in body.model_fields_set and body.description is None:
        changes = registry.Changes(**body.model_dump(exclude_none=True) | {"description": ""})
    return WebhookOut.of(await registry.change_webhook(session, caller, webhook_id, changes))


@router.delete("/{webhook_id}", summary="Delete a webhook", status_code=204, responses=problem_responses(NotFound))
async def delete_webhook(webhook_id: WebhookId, caller: Store, session: DbSession) -> None:
    """Delete a webhook with its deliveries. Requests under way may still arrive."""
    await registry.delete_webhook(session, caller, webhook_id)


@router.post(
    "/{webhook_id}/secret",
    summary="Replace a webhook's secret",
    responses=problem_responses(NotFound, IdempotencyKeyReused),
)
async def replace_webhook_secret(
    webhook_id: WebhookId,
    caller: Store,
    session: DbSession,
    response: Response,
    body: ReplaceSecret = _ONE_DAY,
    key: IdempotencyKeyHeader = None,
) -> WebhookWithSecret:
    """Give a webhook a new secret. For a time, previous ones sign as well, up to five. With 0 hours, all end now.

    Send an `Idempotency-Key`: a retry with it returns the same secret again, until that is replaced. A retry without it
    makes another secret.
    """
    once = key_of(key, f"webhook-secret:{webhook_id}", body)
    webhook, shown, replayed = await registry.replace_secret_once(
        session, caller, webhook_id, body.keep_previous_hours, once
    )
    mark_replay(response, replayed=replayed)
    return WebhookWithSecret.of(webhook, shown=shown)


@router.post(
    "/{webhook_id}/test",
    summary="Send a test",
    status_code=201,
    responses=problem_responses(NotFound, IdempotencyKeyReused),
)
async def test_webhook(
    webhook_id: WebhookId,
    caller: Store,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,  # noqa: PT028 - a route, not a test
) -> DeliveryOut:
    """Send an event of type `webhook.test`, also if the webhook has other types. The delivery says what became of it.

    It is sent at once, unless the webhook is disabled or paused.
    """
    log.info("test of a webhook", webhook_id=str(webhook_id), caller=caller.id)

    async def send() -> dict[str, Any]:
        return {"delivery_id": (await deliveries.send_test(session, webhook_id)).id}

    once = IdempotencyKey.of(key, f"webhook-test:{webhook_id}", {})
    sent, replayed = await act_once(session, caller.id, once, send)
    mark_replay(response, replayed=replayed)
    return DeliveryOut.of(await deliveries.get_delivery(session, webhook_id, sent["delivery_id"]))


@router.post(
    "/{webhook_id}/replay", summary="Replay a period", responses=problem_responses(NotFound, IdempotencyKeyReused)
)
async def replay_deliveries(
    webhook_id: WebhookId,
    body: ReplayRange,
    caller: Store,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> Replayed:
    """Send what was created within a time again, in its order, after what is pending. Up to 10,000 at a time.

    Each gets a new delivery with the same `webhook-id`. Leaves out tests, and what is still pending.
    """

    async def replay() -> dict[str, Any]:
        end = body.end or datetime.now(UTC)
        count, more = await deliveries.replay_range(session, webhook_id, body.start, end, failed_only=body.failed_only)
        return {"replayed": count, "next_from": more and more.isoformat()}

    await registry.get_webhook(session, webhook_id)
    once = key_of(key, f"webhook-replay:{webhook_id}", body)
    result, replayed = await act_once(session, caller.id, once, replay)
    mark_replay(response, replayed=replayed)
    next_from = result["next_from"]
    return Replayed(replayed=result["replayed"], next_from=next_from and datetime.fromisoformat(next_from))


@router.get("/{webhook_id}/deliveries", summary="List deliveries", responses=problem_responses(NotFound))
async def list_deliveries(
    webhook_id: WebhookId,
    _: Store,
    session: DbSession,
    state: State = None,
    conversation_id: OfConversation = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[DeliveryOut]:
    """List a webhook's deliveries of the last 30 days, newest first."""
    rows, next_cursor = await deliveries.list_deliveries(
        session, webhook_id, state=state, conversation_id=conversation_id, cursor=cursor, limit=limit
    )
    return Page(items=[DeliveryOut.of(row) for row in rows], next_cursor=next_cursor)


@router.get("/{webhook_id}/deliveries/{delivery_id}", summary="Get a delivery", responses=problem_responses(NotFound))
async def get_delivery(webhook_id: WebhookId, delivery_id: DeliveryId, _: Store, session: DbSession) -> DeliveryOut:
    """Return a delivery."""
    return DeliveryOut.of(await deliveries.get_delivery(session, webhook_id, delivery_id))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay",
    summary="Replay a delivery",
    status_code=201,
    responses=problem_responses(NotFound, IdempotencyKeyReused),
)
async def replay_delivery(
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
    caller: Store,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> DeliveryOut:
    """Send an event again, as a new delivery, after what is pending about its conversation.

    For one that is pending, makes the next attempt now, unless another one has to be first; it is returned.
    """

    async def replay() -> dict[str, Any]:
        return {"delivery_id": (await deliveries.replay_delivery(session, webhook_id, delivery_id)).id}

    once = IdempotencyKey.of(key, f"webhook-replay:{webhook_id}:{delivery_id}", {})
    sent, replayed = await act_once(session, caller.id, once, replay)
    mark_replay(response, replayed=replayed)
    return DeliveryOut.of(await deliveries.get_delivery(session, webhook_id, sent["delivery_id"]))


def check_target(request: Request, url: str) -> None:
    """Raise `Invalid` for a URL that webhooks must not be sent to."""
    try:
        check_url(url, api_state(request).settings.webhook_private_hosts)
    except ValueError as error:
        raise Invalid(f"The URL {error}.", ("body", "url"), "webhook_url") from None
