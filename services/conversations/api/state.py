"""The types of what the application of this service keeps in `app.state`."""

import asyncio
from typing import cast

import httpx2
from starlette.requests import HTTPConnection

from services.conversations.attachments.file_store import FileStore
from services.conversations.audit.reads import ReadLog
from services.conversations.identity.access import KnownUserCache, SessionChecks
from services.conversations.identity.badges import UnreadCounts
from services.conversations.messaging.batching import GroupCommit
from services.conversations.rate_limits.policy import Limits, SignInOrigins
from services.conversations.realtime.hub import Hub
from services.conversations.realtime.presence_feed import PresenceFeed
from services.conversations.realtime.stream_admission import StreamAdmission
from services.conversations.realtime.stream_quota import StreamQuota
from services.conversations.settings import ApiSettings
from shared.api.app_state import AppState


class ApiState(AppState):
    """The state of the conversations service, which `create_app` sets."""

    settings: ApiSettings
    instance: str
    """A random name of this process."""
    known_users: KnownUserCache
    session_checks: SessionChecks
    unread_counts: UnreadCounts
    admission: StreamAdmission
    group_commit: GroupCommit
    hub: Hub
    presence_feed: PresenceFeed
    files: FileStore
    notifications: httpx2.AsyncClient | None
    """The notifications API's own port; None if CHATS_FEED_SECRET is not set."""
    export_places: asyncio.Semaphore
    """For the exports of persons' data that are made at the same time."""
    reads: ReadLog
    limits: Limits
    stream_quota: StreamQuota
    sign_in_origins: SignInOrigins


def api_state(request: HTTPConnection) -> ApiState:
    """Return the state of the application that handles a request."""
    return cast("ApiState", request.app.state)
