"""An application on a database that is a test's own to close."""

from fastapi import FastAPI

from services.conversations.messaging.batching import GroupCommit
from shared.database import ConnectionProvider, SessionFactory, connection_provider


def connect(app: FastAPI, sessions: SessionFactory, acquire: ConnectionProvider | None = None) -> None:
    """Let an application read and write over the connections of these sessions, not of an engine of its own."""
    app.state.sessions = sessions
    app.state.acquire = acquire or connection_provider(sessions.kw["bind"])
    app.state.group_commit = GroupCommit(app.state.sessions, app.state.acquire)
