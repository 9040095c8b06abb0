"""An application that uses a test's database connections."""

from fastapi import FastAPI

from services.conversations.identity.access import SessionChecks
from services.conversations.messaging.batching import GroupCommit
from shared.database import ConnectionProvider, SessionFactory, connection_provider


def connect(app: FastAPI, sessions: SessionFactory, acquire: ConnectionProvider | None = None) -> None:
    """Make an application use these sessions' connections instead of an engine of its own."""
    app.state.sessions = sessions
    app.state.acquire = acquire or connection_provider(sessions.kw["bind"])
    app.state.session_checks = SessionChecks(app.state.acquire)
    app.state.group_commit = GroupCommit(app.state.sessions, app.state.acquire)
