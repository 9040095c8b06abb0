"""An application on a database that is a test's own to close."""

from fastapi import FastAPI

from shared.database import Sessions, create_lender


def connect(app: FastAPI, sessions: Sessions) -> None:
    """Let an application read and write over the connections of these sessions, not of an engine of its own."""
    app.state.sessions = sessions
    app.state.lend = create_lender(sessions.kw["bind"])
