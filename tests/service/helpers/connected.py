"""An application that uses a test's database connections."""

import time

from fastapi import FastAPI

from services.conversations.audit.reads import ReadLog
from services.conversations.identity.access import KnownUserCache, SessionChecks
from services.conversations.messaging.batching import GroupCommit
from shared.database.transactions import ConnectionProvider, SessionFactory, connection_provider


def connect(app: FastAPI, sessions: SessionFactory, acquire: ConnectionProvider | None = None) -> None:
    """Make an application use these sessions' connections instead of an engine of its own."""
    app.state.sessions = sessions
    app.state.acquire = acquire or connection_provider(sessions.kw["bind"])
    app.state.known_users = KnownUserCache(app.state.acquire)
    app.state.session_checks = SessionChecks(app.state.acquire)
    app.state.reads = ReadLog(app.state.sessions, time.time)
    app.state.group_commit = GroupCommit(app.state.sessions, app.state.acquire)
