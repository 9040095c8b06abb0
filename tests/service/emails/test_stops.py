"""That emails are off, on the pages of customers and admins, from the notifications service's log; and on again."""

import re
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import func, select

from services.notifications.delivery.bounces import Consequence, Effect, Verdict, record_bounce
from services.notifications.delivery.circuit_breaker import note_smtp
from services.notifications.delivery.suppression import remove_suppressed_address
from services.notifications.models import Email
from services.notifications.rules import Reason
from services.notifications.settings import EmailSettings
from shared.database.transactions import transaction
from shared.event_log.sequencer import rotate_epoch
from tests.service.emails.test_follower import NO_SMTP, Following, following
from tests.service.helpers.browser import Browser, aged
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import show, signed_in

__all__ = ["following"]  # a fixture

MESSAGES, EMAILS = "/dashboard/messages/", "/notifications/emails"
SETTINGS = email_settings("postgresql://unused")


class Store:
    """Anna and Sam in browsers, on the pages of both services."""

    def __init__(self, following: Following, anna: Caller, sam: Caller, api: httpx2.AsyncClient) -> None:
        self.following, self.anna, self.sam, self.notifications = following, anna, sam, api
        self.conversation = ""

    async def talk(self, settings: EmailSettings = SETTINGS) -> None:
        """Let Anna ask and Sam answer."""
        self.conversation = (await self.anna.open(body="Hello?"))["id"]
        await self.sam.post(self.conversation, "Yes?")
        await self.following.deliver(settings)

    async def of_anna(self, path: str = "") -> str:
        """Return what Anna's page says about emails."""
        async with httpx2.AsyncClient(transport=self.anna.api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
            browser = Browser(client)
            await browser.sign_in("anna")
            self.notifications.cookies.clear()
            self.notifications.cookies.set("chats", browser.token, domain="chats.test", path="/")
            self.csrf = browser.claims["csrf"]
            page = Page(await browser.get(f"{MESSAGES}{path}"))
            return page.by_id("emails-off").text

    async def of_sam(self) -> str:
        """Return what Sam's composer says about emails."""
        async with signed_in(self.anna.api) as browser:
            return (await show(browser, f"{self.conversation}/?peek=true")).by_id("no-email").text

    async def choose(self, wish: str, conversation: str = "", **headers: str) -> httpx2.Response:
        """Submit the form with Anna's wish, and let the conversations service learn of it."""
        query = f"?conversation_id={conversation}" if conversation else ""
        form = {"csrf_token": self.csrf, "emails": wish}
        answer = await self.notifications.post(f"{EMAILS}{query}", data=form, headers={"Origin": HOST, **headers})
        await self.following.follow()
        return answer


@pytest.fixture
def store(following: Following, anna: Caller, sam: Caller, notifications_api: httpx2.AsyncClient) -> Store:
    return Store(following, anna, sam, notifications_api)


OFF_HERE = "You turned off emails about this conversation. They start again when you write. Turn emails on"
OFF = "You turned off our emails. You find our replies only here. Turn emails on"
MUTED = "No email will be sent. The customer has turned off emails about this conversation, or all of them."


async def test_pages_say_that_emails_are_off_and_turn_them_on_again(store: Store) -> None:
    await store.talk()
    thread = f"{store.conversation}/"
    assert (await store.of_anna(), await store.of_anna(thread), await store.of_sam()) == ("", "", "")
    answer = await store.choose("conversation", store.conversation)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{EMAILS}?conversation_id={store.conversation}")
    page = await store.notifications.get(answer.headers["location"])
    assert "no more emails about this conversation" in page.text
    assert page.headers["referrer-policy"] == "same-origin"
    assert f'href="/dashboard/messages/{thread}"' in page.text
    assert (await store.of_anna(), await store.of_anna(thread), await store.of_sam()) == ("", OFF_HERE, MUTED)

    await store.choose("all")
    assert (await store.of_anna(), await store.of_anna(thread), await store.of_sam()) == (OFF, OFF, MUTED)
    await store.choose("none")
    assert (await store.of_anna(), await store.of_anna(thread)) == ("", OFF_HERE)
    await store.choose("none", store.conversation)
    assert (await store.of_anna(), await store.of_anna(thread), await store.of_sam()) == ("", "", "")


async def test_writing_again_and_a_deletion_end_it(store: Store) -> None:
    await store.talk()
    await store.of_anna()
    await store.choose("conversation", store.conversation)
    await store.anna.post(store.conversation, "One more thing")
    await store.following.deliver(SETTINGS)
    await store.following.follow()
    assert await store.of_anna(f"{store.conversation}/") == ""
    await store.choose("conversation", store.conversation)
    await store.sam.call("PATCH", f"/conversations/{store.conversation}", {"status": "CLOSED"})
    assert (await store.sam.call("DELETE", f"/conversations/{store.conversation}")).status_code == 204


async def test_after_a_lost_place_in_the_log_they_are_listed_again(store: Store) -> None:
    await store.talk()
    await store.of_anna()
    await store.choose("all")
    await store.choose("conversation", store.conversation)
    async with transaction(store.following.sweeping.notifications) as session:
        await rotate_epoch(session)
    await store.choose("none")
    await store.following.follow()
    assert (await store.of_anna(), await store.of_anna(f"{store.conversation}/")) == ("", OFF_HERE)


async def test_without_a_mail_server_the_composer_says_so_before_the_first_email(store: Store) -> None:
    await store.talk()
    for settings, said in ((NO_SMTP, "No email will be sent. Sending email is turned off."), (SETTINGS, "")):
        for _ in range(2):
            async with transaction(store.following.sweeping.notifications) as session:
                await note_smtp(session, settings)
        await store.following.follow()
        assert (await store.of_sam(), await store.of_anna()) == (said, "")


async def test_a_form_of_an_old_page_leads_to_where_the_session_is_renewed(store: Store) -> None:
    await store.talk()
    await store.of_anna()
    token = str(store.notifications.cookies["chats"])
    store.notifications.cookies.set("chats", aged(token, 20), domain="chats.test", path="/")
    answer = await store.choose("all", store.conversation)
    entry = f"{MESSAGES}emails/?conversation_id={store.conversation}&lost=true"
    assert answer.headers["location"] == entry
    async with httpx2.AsyncClient(transport=store.anna.api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in("anna")
        there = (await browser.get(entry)).headers["location"]
    assert re.fullmatch(rf"{EMAILS}\?conversation_id={store.conversation}&fresh=true&locale=\w+&lost=true", there)
    store.notifications.cookies.clear()
    assert (await store.notifications.get(there)).status_code == 401
    store.notifications.cookies.set("chats", token, domain="chats.test", path="/")
    assert "your choice was not saved" in (await store.notifications.get(there)).text


async def test_a_customer_decides_about_own_conversations_with_a_form_of_ours(store: Store) -> None:
    await store.talk()
    await store.of_anna()
    for conversation, wish, status in (
        (str(uuid4()), "conversation", 404),
        ("", "conversation", 422),
        ("", "some", 422),
    ):
        assert (await store.choose(wish, conversation)).status_code == status
    assert (await store.choose("all", Origin="https://elsewhere.test")).status_code == 403
    store.csrf = "guessed"
    assert (await store.choose("all")).status_code == 403
    assert await store.of_anna() == ""


async def test_a_suppressed_address_asks_its_customer_to_correct_it_until_they_do(store: Store, shop: Caller) -> None:
    await store.talk()
    sessions = store.following.sweeping.notifications
    async with transaction(sessions) as session:
        email = (await session.scalars(select(Email))).one()
        address = "anna@customer.test"
        email.state, email.to_address, email.claimed_at = "sent", address, func.clock_timestamp()
        await session.flush()
        verdict = Verdict(Reason.MAILBOX_UNKNOWN, "5.1.1", Consequence.SUPPRESS)
        assert await record_bounce(session, email.id, verdict, "550 5.1.1 unknown", "") is Effect.SUPPRESSED
    await store.following.follow()
    assert "correct the email address in your account" in await store.of_anna()
    assert "correct the email address in your account" in await store.of_anna(f"{store.conversation}/")
    assert await store.of_sam() == (
        "No email will be sent. Earlier emails to this address came back. Try this address again"
    )
    for email_address, asks in (
        ("Anna@Customer.TEST", True),
        ("new@customer.test", False),
        (address, True),
        (None, False),
    ):
        await shop.call("PUT", "/users/anna", {"name": "Anna", "email": email_address})
        await store.following.deliver(SETTINGS)
        await store.following.follow()
        assert ("correct the email address" in await store.of_anna()) is asks, email_address
        choices = (await store.notifications.get(EMAILS)).text
        assert ("correct the email address" in choices, "You get an email" in choices) == (asks, not asks)
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": address})
    await store.following.deliver(SETTINGS)
    async with transaction(sessions) as session:
        assert await remove_suppressed_address(session, address)
    await store.following.follow()
    assert await store.of_anna() == ""
