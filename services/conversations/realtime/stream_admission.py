"""How those who open a stream are let in: who comes at the same moment, in one statement together.

After a restart or a broken network all clients come back within seconds. Each alone would cost a transaction.
"""

from collections.abc import Sequence
from uuid import UUID

from services.conversations.identity.access import let_in
from services.conversations.identity.provisioning import look_together
from services.conversations.identity.sessions import enter_together
from shared.auth import Principal
from shared.database import Lend, Sessions, answered_connection, answered_transaction
from shared.together import Together

MOST = 200  # looked up at once


class Door:
    """Lets callers in as `let_in` does, which has the last word on whoever is new, changed, or not to be let in."""

    def __init__(self, sessions: Sessions, lend: Lend) -> None:
        self._sessions = sessions
        self._lend = lend
        self._together = Together(self._look, MOST, breath=0.01)

    async def let_in(self, principal: Principal) -> tuple[UUID, int]:
        """Let a customer or an admin in; return the log's epoch and head from before. Notes no use of a session."""
        position = await self._together.ask(principal)
        if position is None:
            async with answered_transaction(self._sessions) as session:
                position = await let_in(session, principal, used=False)
        return position

    async def _look(self, principals: Sequence[Principal]) -> list[tuple[UUID, int] | None]:
        by_token = [each for each in principals if each.session_id is None]
        by_session = [each for each in principals if each.session_id is not None]
        async with answered_connection(self._lend) as connection:
            seen = await look_together(connection, by_token) if by_token else {}
            seen |= await enter_together(connection, by_session) if by_session else {}
        return [seen.get(each) for each in principals]
