"""The servers that all processes of a run share, and access to them that is no crash point."""

from dataclasses import dataclass
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from services.notifications.settings import EmailSettings
from tests.system.crash.scenario import SUPPORT

SECRET = "a secret for tests with 32 bytes or more"
INBOUND_DOMAIN = "in.store.test"


@dataclass(frozen=True)
class World:
    """The servers' addresses."""

    conversations_url: str
    notifications_url: str
    broker_url: str
    smtp_port: int
    files: str  # a directory

    @property
    def databases(self) -> dict[str, str]:
        """Return the name of each service's database."""
        urls = {"conversations": self.conversations_url, "notifications": self.notifications_url}
        return {service: make_url(url).database or "" for service, url in urls.items()}

    @property
    def email_settings(self) -> EmailSettings:
        return EmailSettings(
            notifications_database_url=self.notifications_url,
            smtp_url=SecretStr(f"smtp://127.0.0.1:{self.smtp_port}"),
            email_from="Test Store <support@store.test>",
            smtp_connections=1,
            support_email=SUPPORT,
            email_delay_seconds=0,
            support_email_delay_seconds=0,
            inbound_domain=INBOUND_DOMAIN,
            inbound_secret=SecretStr(SECRET),
        )


class Outside:
    """Reads the databases and lets time pass, without crash points."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._connections: dict[str, asyncpg.Connection[Any]] = {}

    async def value(self, url: str, query: str) -> Any:
        """Return the single value of a query."""
        return await (await self._connection(url)).fetchval(query)

    async def rows(self, url: str, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query."""
        return list(await (await self._connection(url)).fetch(query, *values))

    async def pass_time(self) -> None:
        """Advance the time past leases, retry delays, the breaker's pause and the spacing of attempts."""
        await (await self._connection(self._world.notifications_url)).execute("""
            update emails set lease_until = now() - interval '1 s' where state = 'sending';
            update emails set next_attempt_at = now() - interval '1 min' where state = 'scheduled';
            update gate set breaker_until = now() - interval '1 s' where breaker_until is not null;
            update inbound_emails set lease_until = now() - interval '1 s' where lease_until is not null;
            update inbound_emails set next_attempt_at = now() where state = 'received';
            update inbox set attempted_at = attempted_at - interval '1 min' where handled_at is null;
        """)

    async def mail_is_over(self) -> bool:
        """Return whether all emails are finished."""
        waiting = "select exists (select from emails where state in ('scheduled', 'sending'))"
        return not await self.value(self._world.notifications_url, waiting)

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def _connection(self, url: str) -> "asyncpg.Connection[Any]":
        if url not in self._connections:
            self._connections[url] = await asyncpg.connect(url)
        return self._connections[url]
