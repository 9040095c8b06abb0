"""Authorize the clients that open a stream, in batches.

After a restart or a network failure all clients reconnect within seconds. One at a time, each would cost a transaction.
"""

from collections.abc import Sequence
from uuid import UUID

from services.conversations.identity.access import authorize_caller
from services.conversations.identity.provisioning import authenticate_many
from services.conversations.identity.sessions import require_sessions
from shared.auth.principal import Principal
from shared.batcher import Batcher
from shared.database.transactions import ConnectionProvider, SessionFactory, request_connection, request_transaction

MAX_BATCH_SIZE = 200  # looked up at once


class StreamAdmission:
    """Authorizes callers in batches; `authorize_caller` decides on callers who are new, changed or refused."""

    def __init__(self, sessions: SessionFactory, acquire: ConnectionProvider) -> None:
        self._sessions = sessions
        self._acquire = acquire
        self._batcher = Batcher(self._authorize_batch, MAX_BATCH_SIZE, linger=0.03)

    async def admit(self, principal: Principal) -> tuple[UUID, int]:
        """Authorize a caller; return the log's epoch and head from before. Does not mark a session as used."""
        position = await self._batcher.submit(principal)
        if position is None:
            async with request_transaction(self._sessions) as session:
                position = await authorize_caller(session, principal, used=False)
        return position

    async def _authorize_batch(self, principals: Sequence[Principal]) -> list[tuple[UUID, int] | None]:
        by_token = [principal for principal in principals if principal.session_id is None]
        by_session = [principal for principal in principals if principal.session_id is not None]
        async with request_connection(self._acquire) as connection:
            positions = await authenticate_many(connection, by_token) if by_token else {}
            positions |= await require_sessions(connection, by_session) if by_session else {}
        return [positions.get(principal) for principal in principals]
