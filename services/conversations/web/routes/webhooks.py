"""The pages of webhooks, for admins with the permission. What endpoints answered is the store's, and not shown."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from services.conversations.api.dependencies import key_of
from services.conversations.api.routes.webhooks import check_target
from services.conversations.api.schemas.webhooks import CreateWebhook, Description, Url
from services.conversations.errors import IdempotencyKeyReused, TooManyWebhooks
from services.conversations.messaging.create_keys import act_once, claim_key
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.models import Webhook
from services.conversations.rules import DeliveryState, WebhookType
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext
from services.conversations.web.forms import Form, known_key, new_form, read_form
from services.conversations.web.rendering import WEBHOOKS_ROOT, PageRoute, add_slash, pages_of, redirect
from services.conversations.webhooks import deliveries, registry
from services.conversations.webhooks.housekeeping import KEPT_DAYS
from shared.api.dependencies import Cursor, DbSession
from shared.auth.principal import Permission, Principal
from shared.auth.tokens import check_permission
from shared.problems import Invalid, NotFound

PAGE = 50  # deliveries on a page
KEEP_HOURS = 24.0  # that the previous secret signs as well

router = APIRouter(prefix=WEBHOOKS_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
router.add_api_route("", add_slash)

Done = Literal["saved", "tested", "replayed", "deleted", "enabled", "disabled"]


class WebhookForm(BaseModel):
    """The form of a webhook. Each type is a field of its own, which is sent if it is checked."""

    model_config = ConfigDict(extra="ignore")

    url: Url
    description: Description = ""


@router.get("/")
async def list_webhooks(
    request: Request, page_context: AdminContext, session: DbSession, done: Done | None = None
) -> Response:
    """Show all webhooks, and a form for a new one."""
    _principal(page_context)
    return await _list(request, page_context, session, new_form(), done=done)


@router.post("/")
async def create_webhook(request: Request, page_context: AdminSubmission, session: DbSession) -> Response:
    """Add a webhook, and show its secret this one time. A second submit of the form leads to the webhook."""
    principal = _principal(page_context)
    form, types = await _read(request, page_context)
    if form.body is None:
        return await _list(request, page_context, session, form)
    fields = CreateWebhook(url=form.body.url, types=types, description=form.body.description)
    try:
        async with session.begin_nested():
            webhook_id, replayed = await claim_key(session, principal.id, key_of(form.key, "webhook-page", fields))
            if replayed:
                return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/")
            webhook = await registry.create_webhook(
                session,
                principal,
                url=fields.url,
                types=types,
                description=fields.description,
                webhook_id=webhook_id,
            )
    except TooManyWebhooks:
        text = form.gettext("There are as many webhooks as are possible. Delete one first.")
        return await _list(request, page_context, session, form.with_error("url", text))
    except IdempotencyKeyReused:
        return await _list(request, page_context, session, form.with_new_key())
    return await _show(request, page_context, session, webhook, new_form(), secret=webhook.secret)


@router.get("/{webhook_id}/")
async def show_webhook(
    webhook_id: UUID,
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    state: DeliveryState | None = None,
    cursor: Cursor = None,
    done: Done | None = None,
) -> Response:
    """Show a webhook and its deliveries."""
    _principal(page_context)
    webhook = await registry.get_webhook(session, webhook_id)
    return await _show(request, page_context, session, webhook, new_form(), state=state, cursor=cursor, done=done)


@router.post("/{webhook_id}/")
async def change_webhook(
    webhook_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Save the fields of a webhook."""
    principal = _principal(page_context)
    form, types = await _read(request, page_context)
    if form.body is None:
        return await _show(request, page_context, session, await registry.get_webhook(session, webhook_id), form)
    changes = registry.Changes(url=form.body.url, types=types, description=form.body.description)
    await registry.change_webhook(session, principal, webhook_id, changes)
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/?done=saved#notice")


@router.get("/{webhook_id}/enable/")
@router.get("/{webhook_id}/disable/")
@router.get("/{webhook_id}/test/")
@router.get("/{webhook_id}/secret/")
@router.get("/{webhook_id}/replay/")
@router.get("/{webhook_id}/delete/")
async def show_again(webhook_id: UUID) -> Response:
    """Redirect to the webhook, for admins who had to sign in before a POST."""
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/")


@router.post("/{webhook_id}/enable/")
async def enable_webhook(webhook_id: UUID, page_context: AdminSubmission, session: DbSession) -> Response:
    """Enable a webhook again."""
    await registry.change_webhook(session, _principal(page_context), webhook_id, registry.Changes(enabled=True))
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/?done=enabled#notice")


@router.post("/{webhook_id}/disable/")
async def disable_webhook(webhook_id: UUID, page_context: AdminSubmission, session: DbSession) -> Response:
    """Disable a webhook."""
    await registry.change_webhook(session, _principal(page_context), webhook_id, registry.Changes(enabled=False))
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/?done=disabled#notice")


@router.post("/{webhook_id}/test/")
async def test_webhook(
    webhook_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Send a test. A second submit of the form sends nothing."""
    principal = _principal(page_context)

    async def send() -> dict[str, Any]:
        return {"delivery_id": (await deliveries.send_test(session, webhook_id)).id}

    await act_once(session, principal.id, await _key(request, f"webhook-test:{webhook_id}"), send)
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/?done=tested#notice")


@router.post("/{webhook_id}/secret/")
async def replace_secret(
    webhook_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Make a new secret, and show it. A second submit of the form shows the same one, until it is replaced."""
    key = await _key(request, f"webhook-secret:{webhook_id}")
    webhook, shown, _ = await registry.replace_secret_once(
        session, _principal(page_context), webhook_id, KEEP_HOURS, key
    )
    if not shown:
        return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/")
    return await _show(request, page_context, session, webhook, new_form(), secret=webhook.secret)


@router.post("/{webhook_id}/replay/")
async def replay(webhook_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession) -> Response:
    """Send one delivery again, or all that failed. A second submit of the form sends nothing."""
    principal = _principal(page_context)
    given = (await request.form()).get("delivery_id")
    delivery_id = int(given) if isinstance(given, str) and given.isascii() and given.isdecimal() else 0

    async def send() -> dict[str, Any]:
        if 0 < delivery_id <= deliveries.MAX_ID:
            return {"delivery_id": (await deliveries.replay_delivery(session, webhook_id, delivery_id)).id}
        now = datetime.now(UTC)
        start = now - timedelta(days=KEPT_DAYS)
        return {"replayed": (await deliveries.replay_range(session, webhook_id, start, now, failed_only=True))[0]}

    await act_once(session, principal.id, await _key(request, f"webhook-replay:{webhook_id}:{delivery_id}"), send)
    return redirect(f"{WEBHOOKS_ROOT}{webhook_id}/?done=replayed#notice")


@router.post("/{webhook_id}/delete/")
async def delete_webhook(webhook_id: UUID, page_context: AdminSubmission, session: DbSession) -> Response:
    """Delete a webhook. A second submit redirects like the first."""
    with suppress(NotFound):
        await registry.delete_webhook(session, _principal(page_context), webhook_id)
    return redirect(f"{WEBHOOKS_ROOT}?done=deleted#notice")


def _principal(page_context: PageContext) -> Principal:
    check_permission(page_context.principal, Permission.WEBHOOKS)
    return page_context.principal


async def _key(request: Request, operation: str) -> IdempotencyKey | None:
    key = (await request.form()).get("idempotency_key")
    return IdempotencyKey.of(known_key(key if isinstance(key, str) else None), f"{operation}:page", {})


async def _read(request: Request, page_context: PageContext) -> tuple[Form[WebhookForm], list[WebhookType]]:
    """Read the form of a webhook, and the types that are checked."""
    form = await read_form(request, WebhookForm, pages_of(request).reader(request, page_context).gettext)
    types = [each for each in WebhookType if each in form.typed]
    if form.body is not None:
        try:
            check_target(request, form.body.url)
        except Invalid:
            text = form.gettext(
                "Enter an address on the internet that begins with https://, without a user, a password or a fragment."
            )
            form = form.with_error("url", text)
    if not types:
        form = form.with_error("types", form.gettext("Choose at least one event."))
    return form, types


async def _list(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    form: Form[WebhookForm],
    *,
    done: Done | None = None,
) -> Response:
    return pages_of(request).render(
        request,
        "webhooks.html",
        page_context,
        status=422 if form.errors else 200,
        webhooks=await registry.list_webhooks(session),
        types=list(WebhookType),
        form=form,
        done=done,
    )


async def _show(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    webhook: Webhook,
    form: Form[WebhookForm],
    *,
    secret: str | None = None,
    state: DeliveryState | None = None,
    cursor: str | None = None,
    done: Done | None = None,
) -> Response:
    rows, next_cursor = await deliveries.list_deliveries(session, webhook.id, state=state, cursor=cursor, limit=PAGE)
    return pages_of(request).render(
        request,
        "webhook.html",
        page_context,
        status=422 if form.errors else 200,
        webhook=webhook,
        types=list(WebhookType),
        states=list(DeliveryState),
        rows=rows,
        next_cursor=next_cursor,
        cursor=cursor,
        state=state,
        form=form,
        secret=secret,
        done=done,
    )
