"""The types of what an HTTP application keeps in `app.state` for all of its requests."""

from typing import cast

from starlette.requests import HTTPConnection

from shared.auth.aliases import Aliases
from shared.auth.jwks import ProviderKeys
from shared.auth.principal import Principal
from shared.auth.tokens import SessionToken, VerifiedTokens
from shared.database.transactions import ConnectionProvider, SessionFactory
from shared.settings import TokenSettings


class AppState:
    """The state of either service's application, which `create_api` sets."""

    settings: TokenSettings
    keys: ProviderKeys | None
    verified_tokens: VerifiedTokens[Principal]
    verified_session_tokens: VerifiedTokens[SessionToken]
    aliases: Aliases
    sessions: SessionFactory
    acquire: ConnectionProvider


def app_state(request: HTTPConnection) -> AppState:
    """Return the state of the application that handles a request."""
    return cast("AppState", request.app.state)
