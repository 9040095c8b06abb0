"""The whole product behind one origin, with a store on another site, for browser tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from deploy.local.ports import free_ports
from deploy.local.processes import Spawn
from shared.settings import TokenSettings
from tests.browser.helpers.store import Store, served
from tests.helpers.smtp_server import SmtpServer, smtp_server
from tests.system.helpers.product import PROCESSES, PROXY, SECRET, Product, running_product

OPERATOR = "operator"
"""The id of the admin that makes calls outside of a browser."""


@dataclass
class Site:
    """The running product, with shortcuts for calls that are not what a test is about."""

    product: Product
    store: Store
    mail_server: SmtpServer
    example_url: str
    """The origin of a store in `examples`, which a test may start."""

    @property
    def origin(self) -> str:
        """Return the product's origin."""
        return self.product.origin

    @asynccontextmanager
    async def without(self, process: str) -> AsyncIterator[None]:
        """Kill a process, and start it again afterwards, also for the other tests when this one fails."""
        await self.product.kill(process)
        try:
            yield
        finally:
            await self.product.start(process)

    async def sync(self, path: str, **fields: Any) -> None:
        """Sync a user or an order from the store; `path` is `users/anna` or `orders/7`."""
        await self._call("PUT", f"/api/v1/store/{path}", "store", "store", json=fields)

    async def order(self, sub: str, number: str, **fields: Any) -> str:
        """Sync an order from the store; return its id."""
        order_id = f"{sub}-{quote(number)}"
        defaults = {
            "user_id": sub,
            "number": number,
            "status": "shipped",
            "total": "59.90",
            "currency": "EUR",
            "placed_at": "2026-11-01T12:00:00Z",
            "url": f"{self.store.url}/orders/{number}",
            "items": [{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}],
        }
        await self.sync(f"orders/{order_id}", **(defaults | fields))
        return order_id

    async def open_conversation(self, sub: str, subject: str, body: str | None = "Hello?", **fields: Any) -> str:
        """Open a conversation as a customer; return its id."""
        body_field = {} if body is None else {"body": body}
        created = await self._call(
            "POST", "/api/v1/conversations", sub, "customer", json={"subject": subject, **body_field, **fields}
        )
        return str(created["id"])

    async def write(self, conversation: str, sub: str, body: str) -> None:
        """Post a message as the customer."""
        await self._call("POST", f"/api/v1/conversations/{conversation}/messages", sub, "customer", json={"body": body})

    async def read(self, conversation: str, sub: str, up_to: int) -> None:
        """Mark a conversation as read as the customer."""
        path = f"/api/v1/conversations/{conversation}/read"
        await self._call("POST", path, sub, "customer", json={"up_to": up_to})

    async def answer(self, conversation: str, body: str) -> None:
        """Post a message as an admin."""
        path = f"/api/v1/admin/conversations/{conversation}/messages"
        await self._call("POST", path, OPERATOR, "admin", json={"body": body})

    async def mention(self, conversation: str, admin_id: str, body: str) -> None:
        """Add a note that mentions an admin, as another one."""
        path = f"/api/v1/admin/conversations/{conversation}/notes"
        await self._call("POST", path, OPERATOR, "admin", json={"body": body, "mentions": [admin_id]})

    async def set_status(self, conversation: str, status: str) -> None:
        """Set the status as an admin."""
        await self._call(
            "PATCH", f"/api/v1/admin/conversations/{conversation}", OPERATOR, "admin", json={"status": status}
        )

    async def conversation(self, conversation: str) -> dict[str, Any]:
        """Return a conversation without marking it as read."""
        path = f"/api/v1/admin/conversations/{conversation}?peek=true"
        return dict(await self._call("GET", path, OPERATOR, "admin"))

    async def bodies(self, conversation: str) -> list[str]:
        """Return the messages' bodies, oldest first."""
        path = f"/api/v1/admin/conversations/{conversation}/messages?limit=100"
        return [message["body"] for message in (await self._call("GET", path, OPERATOR, "admin"))["items"]]

    async def conversations_of(self, sub: str) -> list[dict[str, Any]]:
        """Return a customer's conversations, latest activity first."""
        path = f"/api/v1/admin/conversations?user_id={sub}&limit=100"
        return list((await self._call("GET", path, OPERATOR, "admin"))["items"])

    async def delete_everything(self) -> None:
        """Close and delete all conversations as an admin."""
        while left := (await self._call("GET", "/api/v1/admin/conversations?limit=100", OPERATOR, "admin"))["items"]:
            for conversation in left:
                await self.set_status(conversation["id"], "CLOSED")
            ids = [conversation["id"] for conversation in left]
            await self._call("POST", "/api/v1/admin/conversations/bulk-delete", OPERATOR, "admin", json={"ids": ids})

    async def unread_by_admins(self) -> int:
        """Return the number in the admins' badge."""
        return int((await self._call("GET", "/api/v1/unread", OPERATOR, "admin"))["unread"])

    async def has_notifications(self, sub: str, count: int) -> bool:
        """Return whether a customer has this many unread notifications."""
        return bool((await self._call("GET", "/api/v1/notifications/unread", sub, "customer"))["unread"] == count)

    async def end_sessions_of(self, sub: str) -> None:
        """Revoke a user's browser sessions from the store."""
        await self._call("DELETE", f"/api/v1/store/users/{sub}/sessions", "store", "store")

    def emails_to(self, sub: str) -> list[EmailMessage]:
        """Return the emails that a user received."""
        emails = [message_from_bytes(email.content, policy=policy.default) for email in self.mail_server.emails]
        return [email for email in emails if address_of(sub) in str(email["To"])]

    async def _call(self, method: str, path: str, sub: str, role: str, **options: Any) -> Any:
        response = await self.product.call(method, path, sub, role, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None


def address_of(sub: str) -> str:
    """Return a user's email address in these tests."""
    return f"{sub}@customer.test"


@asynccontextmanager
async def running_site(directory: Path, spawn: Spawn) -> AsyncIterator[Site]:
    """Run the whole product, with emails due after a second, and a store that it trusts."""
    port, example = free_ports([0, 0])
    url = f"http://localhost:{port}"  # for a browser, a different site than 127.0.0.1
    example_url = f"http://127.0.0.1:{example}"
    async with smtp_server() as mail_server:
        settings = {
            "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
            "CHATS_EMAIL_DELAY_SECONDS": "1",
            "CHATS_AUTH_PERMISSIONS_CLAIM": "permissions",
            "CHATS_STORE_NAME": "Test Store",
            "CHATS_STORE_ORIGINS": f"{url},{example_url}",
            "CHATS_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1",
            "CHATS_STORE_URL": f"{url}/",
            "CHATS_LOGIN_URL": f"{url}/login",
        }
        async with running_product(directory, spawn, **settings) as product:
            store = Store(url, product.origin, TokenSettings(auth_secret=[SecretStr(SECRET)]))
            async with served(store.app(), port):
                await product.launch(*PROCESSES, PROXY)
                await product.until_ready(*PROCESSES, PROXY)
                yield Site(product, store, mail_server, example_url)
