"""An application that uses a test's database connections, and its client."""

import time
from typing import Any

import httpx2
from fastapi import FastAPI

from services.conversations.audit.reads import ReadLog
from services.conversations.identity.access import KnownUserCache, SessionChecks
from services.conversations.messaging.batching import GroupCommit
from shared.database.transactions import ConnectionProvider, SessionFactory, connection_provider

HOST = "http://chats.test"


def connect(app: FastAPI, sessions: SessionFactory, acquire: ConnectionProvider | None = None) -> None:
    """Make an application use these sessions' connections instead of an engine of its own."""
    app.state.sessions = sessions
    app.state.acquire = acquire or connection_provider(sessions.kw["bind"])
    app.state.known_users = KnownUserCache(app.state.acquire)
    app.state.session_checks = SessionChecks(app.state.acquire)
    app.state.reads = ReadLog(app.state.sessions, time.time)
    app.state.group_commit = GroupCommit(app.state.sessions, app.state.acquire)


def client_of(app: FastAPI, base_url: str = HOST, **options: Any) -> httpx2.AsyncClient:
    """Return a client of an application without a server, to which its crashes are responses as well."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=base_url, **options)


def app_of(client: httpx2.AsyncClient) -> FastAPI:
    """Return the application of a client."""
    app: FastAPI = client._transport.app  # type: ignore[attr-defined] # noqa: SLF001 - there is no public way
    return app
