"""Requests through the proxy: messages that must arrive as notifications and emails, and load that must not fail."""

import smtplib
import threading
import time
from collections import Counter
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx2
import jwt

from deploy.local.mailbox_reply import compose_reply
from deploy.verify.engine import Engine, VerificationError, wait_until

PACE = 0.05  # seconds between two requests of a thread
TIMEOUT = 15.0
NEWEST = 100  # notifications on a page


class Store:
    """The API as a store's customers and admins use it."""

    def __init__(self, engine: Engine) -> None:
        self._secret = (engine.secrets / "auth_secret").read_text().strip()
        self._catcher = f"http://127.0.0.1:{engine.ports['MAILPIT_PORT']}/mails"
        self._inbound_port = engine.ports["CHATS_INBOUND_PORT"]
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{engine.ports['CHATS_PORT']}", timeout=TIMEOUT)

    def request(self, method: str, path: str, user: str, role: str = "customer", **body: str) -> Any:
        """Send a request as a user and return the response's content. Raises for an error."""
        now = int(time.time())
        claims = {
            "sub": user,
            "role": role,
            "email": f"{user}@example.com",
            "aud": "chats",
            "iat": now,
            "exp": now + 600,
        }
        headers = {"Authorization": f"Bearer {jwt.encode(claims, self._secret, 'HS256')}"}
        response = self.http.request(method, f"/api/v1{path}", headers=headers, json=body or None)
        response.raise_for_status()
        return response.json() if response.content else None

    def start(self, customer: str) -> str:
        """Create a conversation of a customer and return its id."""
        return str(
            self.request("POST", "/conversations", customer, subject="Delivery", body="When does it come?")["id"]
        )

    def answer(self, conversation: str, text: str) -> str:
        """Post a message as an admin and return its id."""
        path = f"/admin/conversations/{conversation}/messages"
        return str(self.request("POST", path, "admin", role="admin", body=text)["id"])

    def post_to_email(self, seconds: float = 60) -> float:
        """Post an answer to a new customer, wait for its notification and email, and return the seconds it took."""
        customer = f"customer-{uuid4().hex[:8]}"
        begun = time.monotonic()
        message = wait_until(lambda: self._try_answer(customer), "a message was accepted", seconds)

        def is_notified() -> bool:
            try:
                return message in self.notified(customer)
            except httpx2.HTTPError:
                return False

        wait_until(is_notified, "a message became a notification", seconds)
        wait_until(lambda: self.emails(customer), "an email arrived at the catcher", seconds)
        return time.monotonic() - begun

    def email_to_message(self, seconds: float = 60) -> float:
        """Reply by LMTP to an email that a new customer got, wait for the message, and return the seconds it took."""
        customer, text = f"customer-{uuid4().hex[:8]}", f"Thank you, {uuid4().hex}."
        conversation = self.start(customer)
        self.answer(conversation, "It comes tomorrow.")
        [number] = wait_until(lambda: self.emails(customer), "an email arrived at the catcher", seconds)
        source = httpx2.get(f"{self._catcher}/{number}/source", timeout=TIMEOUT).content
        reply = compose_reply(message_from_bytes(source, policy=policy.default), text)
        begun = time.monotonic()
        wait_until(lambda: self._deliver(reply), "an email was accepted", seconds)
        path = f"/conversations/{conversation}/messages"
        wait_until(lambda: text in str(self.request("GET", path, customer)), "an email became a message", seconds)
        return time.monotonic() - begun

    def notified(self, customer: str) -> list[str]:
        """Return the ids of all messages that a customer was notified of."""
        found: list[str] = []
        cursor = ""
        while True:
            page = self.request("GET", f"/notifications?limit={NEWEST}{cursor}", customer)
            found += [item["message_id"] for item in page["items"]]
            if not page["next_cursor"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def emails(self, customer: str) -> list[int]:
        """Return the numbers of the emails to a customer that the catcher has."""
        try:
            caught = httpx2.get(self._catcher, timeout=TIMEOUT).json()
        except httpx2.HTTPError:
            return []
        return [email["number"] for email in caught if f"{customer}@example.com" in email["to"]]

    def _deliver(self, email: EmailMessage) -> bool:
        """Deliver an email as a mail server does, which tries again when it cannot."""
        try:
            with smtplib.LMTP("127.0.0.1", self._inbound_port, timeout=TIMEOUT) as server:
                return not server.send_message(email)
        except OSError:  # smtplib's errors are such, too
            return False

    def _try_answer(self, customer: str) -> str | None:
        try:
            return self.answer(self.start(customer), "It comes tomorrow.")
        except httpx2.HTTPError:
            return None


class Load:
    """Three threads that post, read and list until the end of the block. No request may fail, no message be lost."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._customer = f"load-{uuid4().hex[:8]}"
        self._conversation = store.start(self._customer)
        self._stop = threading.Event()
        self._posted: list[str] = []
        self._failures: Counter[str] = Counter()
        self._requests = 0
        work = (self._post, self._read, self._list)
        self._threads = [threading.Thread(target=self._repeat, args=(each,)) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> str:
        """Raise `VerificationError` if a request failed or a message was notified less or more than once."""
        if self._failures:
            raise VerificationError(
                f"{self._failures.total()} of {self._requests} requests failed: {dict(self._failures)}"
            )
        posted = sorted(self._posted)
        wait_until(lambda: len(self._store.notified(self._customer)) >= len(posted), "all messages were notified")
        if sorted(self._store.notified(self._customer)) != posted:
            raise VerificationError("a message was notified twice")
        return f"{self._requests} requests, none failed; {len(posted)} messages, each notified once"

    def _repeat(self, work: Any) -> None:
        while not self._stop.wait(PACE):
            self._requests += 1
            try:
                work()
            except httpx2.HTTPStatusError as error:
                self._failures[f"{error.request.method} {error.request.url.path}: {error.response.status_code}"] += 1
            except httpx2.HTTPError as error:
                self._failures[repr(error)] += 1

    def _post(self) -> None:
        self._posted.append(self._store.answer(self._conversation, f"Message {len(self._posted)}"))

    def _read(self) -> None:
        self._store.request("GET", f"/conversations/{self._conversation}/messages?limit=5", self._customer)

    def _list(self) -> None:
        self._store.request("GET", "/notifications/unread", self._customer)
