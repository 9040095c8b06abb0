"""The HTTP application of the conversations service."""

import asyncio
import secrets
import time
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import structlog
from fastapi import FastAPI

from services.conversations.api.docs.document import complete_document
from services.conversations.api.docs.tags import TAGS
from services.conversations.api.routes import (
    admin,
    attachments,
    audit,
    customer,
    desk,
    inbound,
    inbound_batch,
    internal,
    person,
    presence,
    reports,
    store,
    stream,
    webhooks,
)
from services.conversations.api.state import ApiState
from services.conversations.attachments.file_store import open_files
from services.conversations.audit.reads import ReadLog
from services.conversations.event_log.append import announce_appends
from services.conversations.identity.access import KnownUserCache, SessionChecks
from services.conversations.identity.badges import UnreadCounts
from services.conversations.messaging.batching import GroupCommit
from services.conversations.messaging.merged_ids import finish_merges
from services.conversations.privacy.export import MAX_EXPORTS
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.policy import Limits, SignInOrigins
from services.conversations.realtime.hub import Hub
from services.conversations.realtime.log_notify import APPENDED, Notifier
from services.conversations.realtime.presence_feed import PresenceFeed
from services.conversations.realtime.stream_admission import StreamAdmission
from services.conversations.realtime.stream_quota import StreamQuota
from services.conversations.settings import ApiSettings
from services.conversations.web import assets
from services.conversations.web.auth import FILE_FORMS, RenewedCookies
from services.conversations.web.framing import FramedRequests
from services.conversations.web.rendering import CUSTOMER_ROOT, Pages
from services.conversations.web.routes import attachments as file_pages
from services.conversations.web.routes import audit as audit_page
from services.conversations.web.routes import (
    bulk,
    canned_replies,
    delete,
    inbox,
    messenger,
    new_conversation,
    operations,
    thread,
)
from services.conversations.web.routes import customer as customer_pages
from services.conversations.web.routes import desk as desk_pages
from services.conversations.web.routes import notifications as notification_pages
from services.conversations.web.routes import reports as report_pages
from services.conversations.web.routes import session as session_pages
from services.conversations.web.routes import webhooks as webhook_pages
from shared.api.app import create_api
from shared.api.body_size import MAX_BODY_BYTES
from shared.api.request_limits import FileForms
from shared.api.routing import add_head_routes, add_routes
from shared.database.engine import REQUEST_BOUNDS, create_engine
from shared.database.transactions import create_sessions
from shared.event_log.feed_client import create_feed

_DESCRIPTION = """
Two-way messaging between a store's customers and its admins.

Authenticate every request with a bearer token: a JWT with `sub`, `iat`, `exp`, `aud` and a role (`customer`, `admin`,
`store`). Pages in a browser use their session cookie instead, and send `X-CSRF-Token` with every request that changes
something.

Lists are `{"items": […], "next_cursor": …}`. Errors are `application/problem+json` with a stable `code`.
Send an `Idempotency-Key` with requests that create something, so that you can retry them safely.
"""


log = structlog.get_logger()


def create_app(settings: ApiSettings) -> FastAPI:
    """Build the application."""
    if not settings.auth_secret:
        log.warning("web sign-in disabled: CHATS_AUTH_SECRET, which signs sessions, is not set")
    engine = create_engine(settings.conversations_database_url, application="chats-api", bounds=REQUEST_BOUNDS)
    redis = None if settings.redis_url is None else FailopenRedis(settings.redis_url)
    stream_quota = StreamQuota(redis)
    appended = Notifier(APPENDED)
    hub = Hub(create_sessions(engine), stream.event_renderer(settings.store_name), stream.render_unread)

    instance = secrets.token_hex(4)
    presence_feed = PresenceFeed(hub.push_to_admins, instance)

    reads = ReadLog(create_sessions(engine), time.time)

    secret = settings.feed_secret
    notifications = create_feed(settings.notifications_url, secret.get_secret_value()) if secret else None

    async def run_background() -> None:
        async with notifications or nullcontext(), asyncio.TaskGroup() as group:
            group.create_task(hub.run(settings.redis_url))
            group.create_task(reads.run())
            if redis is not None and settings.redis_url is not None:
                group.create_task(redis.run())
                group.create_task(appended.run(settings.redis_url))
                group.create_task(stream_quota.run())
                group.create_task(presence_feed.run(redis, settings.redis_url))

    pages = Pages(settings)
    app = create_api(
        settings,
        engine,
        Path(__file__).parent,
        background=run_background,
        streamed=[store.IMPORT, attachments.UPLOAD, inbound.FILES, inbound_batch.BATCH],
        file_forms=FileForms(FILE_FORMS, settings.attachment_max_bytes + MAX_BODY_BYTES),
        docs_url="/docs",
        openapi_url="/openapi.json",
        openapi_tags=TAGS,
        render_error=pages.render_html_error,
        settle_mergers=finish_merges,
        title="Customer Chats: conversations",
        description=_DESCRIPTION,
    )
    state = cast("ApiState", app.state)
    state.reads = reads
    state.instance = instance
    announce_appends(state.sessions, appended.notify)
    state.known_users = KnownUserCache(state.acquire)
    state.session_checks = SessionChecks(state.acquire)
    state.unread_counts = UnreadCounts(state.acquire)
    state.admission = StreamAdmission(state.sessions, state.acquire)
    state.group_commit = GroupCommit(state.sessions, state.acquire, appended.notify)
    state.hub = hub
    state.presence_feed = presence_feed
    state.files = open_files(settings)
    state.notifications = notifications
    state.export_places = asyncio.Semaphore(MAX_EXPORTS)
    state.limits = Limits(settings, redis)
    state.stream_quota = stream_quota
    state.sign_in_origins = SignInOrigins()
    app.state.pages = pages
    app.add_middleware(RenewedCookies)
    app.add_middleware(FramedRequests, CUSTOMER_ROOT)  # the outermost: all others see the path of the route
    for module in (
        stream,
        customer,
        admin,
        desk,
        presence,
        reports,
        audit,
        attachments,
        store,
        person,
        webhooks,
        internal,
        inbound_batch,
        inbound,
    ):  # the most frequent first
        add_routes(app, module.router)
    for page in (
        notification_pages,
        customer_pages,
        inbox,
        new_conversation,
        delete,
        bulk,
        canned_replies,
        thread,
        desk_pages,
        operations,
        report_pages,
        audit_page,
        webhook_pages,
        file_pages,
    ):  # fixed paths before those with ids
        add_routes(app, page.router)
    add_routes(
        app, session_pages.router, session_pages.scripts, session_pages.home, messenger.router, messenger.scripts
    )
    complete_document(app)
    app.mount(assets.PREFIX, assets.Assets(settings.theme_dir))
    add_head_routes(app)
    return app
