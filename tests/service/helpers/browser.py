"""A browser with a cookie jar but no scripts, for tests of sessions and pages."""

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import httpx2
import jwt

from shared.auth.tokens import issue_token
from shared.settings import TokenSettings
from tests.service.conftest import SECRET
from tests.service.helpers.connected import HOST


@dataclass
class Browser:
    """A browser that keeps cookies and sends the Origin header as browsers do."""

    client: httpx2.AsyncClient
    cookie: str = "chats"

    async def sign_in(self, sub: str = "anna", role: str = "customer", **fields: Any) -> httpx2.Response:
        """Enter from the store with a fresh token."""
        return await self.submit("/session", token=store_token(sub, role), **fields)

    async def submit(self, path: str, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """Submit a form of a page of this origin."""
        return await self.client.post(path, data=fields, headers={"Origin": HOST} | (headers or {}))

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        """Open a page, or fetch something as a script."""
        return await self.client.get(path, **more)

    async def call(self, method: str, path: str, json: Any = None, **headers: str) -> httpx2.Response:
        """Call the API as a script of the pages does."""
        more = {} if json is None else {"json": json}
        own = {"Origin": HOST, "X-CSRF-Token": self.claims["csrf"]}
        return await self.client.request(method, path, headers=own | headers, **more)

    @property
    def token(self) -> str:
        """Return the session cookie's value."""
        return str(self.client.cookies[self.cookie])

    @token.setter
    def token(self, value: str) -> None:
        self.client.cookies.clear()
        self.client.cookies.set(self.cookie, value, domain="chats.test", path="/")

    @property
    def claims(self) -> Any:
        """Return the claims of the session cookie's token, unverified."""
        return jwt.decode(self.token, options={"verify_signature": False})


@cache
def _settings() -> TokenSettings:
    return TokenSettings(auth_secret=[SECRET])


def store_token(sub: str = "anna", role: str = "customer", *, seconds: float = 3600, **claims: Any) -> str:
    """Sign a token as the store does."""
    return issue_token(_settings(), {"sub": sub, "role": role, **claims}, timedelta(seconds=seconds))


def aged(token: str, minutes: float) -> str:
    """Return a session's token as if it had been issued `minutes` earlier."""
    claims = jwt.decode(token, options={"verify_signature": False})
    older = {name: claims[name] - int(minutes * 60) for name in ("iat", "exp")}
    return jwt.encode(claims | older, SECRET, algorithm="HS256")
