"""The page of an admin's preferences: who sees it, where others are sent, and what a form changes."""

from collections.abc import Callable
from uuid import uuid4

import httpx2
import pytest

from services.notifications.web.preferences import ENTRY, PATH
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory
from shared.people import Person
from shared.settings import Role, TokenSettings
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings, receive, user_changed

CSRF = "token-of-the-forms"


@pytest.fixture
def signed_in(notifications_api: httpx2.AsyncClient) -> Callable[..., httpx2.AsyncClient]:
    """Return a function that gives the client the cookie of a session."""

    def sign_in(user_id: str = "sam", role: Role = Role.ADMIN) -> httpx2.AsyncClient:
        token = issue_session_token(TokenSettings(auth_secret=[SECRET]), user_id, role, uuid4(), CSRF)
        notifications_api.cookies.set("chats", token, domain="chats.test", path="/")
        return notifications_api

    return sign_in


async def test_a_form_replaces_the_callers_preferences(
    signed_in: Callable[..., httpx2.AsyncClient], acting_as: As
) -> None:
    browser = signed_in()
    page = await browser.get(PATH, params={"locale": "de"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Ihre Benachrichtigungen" in page.text
    assert page.text.count(" checked") == 6
    form = {"csrf_token": CSRF, "ASSIGNED": ["bell", "email"], "CUSTOMER_REPLIED": "email", "other": "bell"}
    saved = await browser.post(f"{PATH}?locale=de", data=form)
    assert (saved.status_code, saved.headers["location"]) == (303, f"{PATH}?locale=de&saved=true")
    page = await browser.get(saved.headers["location"])
    assert "Gespeichert." in page.text
    assert page.text.count(" checked") == 3
    preferences = await Caller(browser, "/api/v1/notifications", acting_as("sam", "admin")).get("/preferences")
    off = {"bell": False, "email": False}
    assert preferences == {
        "MENTION": off,
        "ASSIGNED": {"bell": True, "email": True},
        "CONVERSATION_CREATED": off,
        "CUSTOMER_REPLIED": {"bell": False, "email": True},
        "quiet_hours": None,
        "digest_at": None,
    }


async def test_errors_are_pages_in_the_browsers_language(signed_in: Callable[..., httpx2.AsyncClient]) -> None:
    browser = signed_in()
    for path, status, words in (
        (f"{PATH}?locale=de&locale=en", 422, "It is invalid or out of date."),
        (f"{PATH}?fresh=perhaps", 422, "It is invalid or out of date."),
        ("/notifications/emails", 403, "Access denied"),
        ("/notifications/other", 404, "Page not found"),
    ):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert words in answer.text
    answer = await browser.post(PATH, data={"csrf_token": "guessed"}, headers={"Accept-Language": "de-AT, en;q=0.5"})
    assert (answer.status_code, "Dieses Formular ist abgelaufen" in answer.text) == (403, True)
    assert (await browser.get("/api/v1/notifications/other")).headers["content-type"] == "application/problem+json"


async def test_who_has_no_valid_token_is_sent_once_to_where_it_is_renewed(
    notifications_api: httpx2.AsyncClient, signed_in: Callable[..., httpx2.AsyncClient], notifications: SessionFactory
) -> None:
    assert (await notifications_api.get(PATH)).headers["location"] == ENTRY
    assert (await notifications_api.get(PATH, params={"fresh": "true"})).status_code == 401
    assert (await notifications_api.post(PATH)).headers["location"] == f"{ENTRY}?lost=true"
    await receive(
        notifications, email_settings("postgresql://unused"), user_changed(Person(id="sam", version=1, deleted=True))
    )
    assert (await signed_in().get(PATH, params={"fresh": "true"})).status_code == 401


async def test_customers_and_forms_of_others_are_refused(signed_in: Callable[..., httpx2.AsyncClient]) -> None:
    assert (await signed_in("anna", Role.CUSTOMER).get(PATH)).status_code == 403
    for headers in ({}, {"Origin": "https://elsewhere.test"}):
        sent = await signed_in().post(PATH, data={"csrf_token": CSRF if headers else "guessed"}, headers=headers)
        assert sent.status_code == 403


async def test_the_form_has_the_times_and_keeps_what_was_typed_when_they_are_wrong(
    signed_in: Callable[..., httpx2.AsyncClient], notifications: SessionFactory
) -> None:
    kim = Person(id="sam", version=1, role="admin", zoneinfo="Europe/Dublin")
    await receive(notifications, email_settings("postgresql://unused"), user_changed(kim))
    browser = signed_in()
    assert "Times are in the time zone Europe/Dublin." in (await browser.get(PATH)).text
    form = {"csrf_token": CSRF, "quiet_start": "22:00:00", "quiet_end": "07:15", "digest_at": "08:00"}
    assert (await browser.post(PATH, data=form)).status_code == 303
    page = (await browser.get(PATH)).text
    shown = ('value="22:00"', 'value="07:15"', '<option value="08:00" selected>')
    assert all(part in page for part in shown)
    for wrong in ({"quiet_end": ""}, {"quiet_end": "22:00:00"}, {"quiet_start": "25:00"}, {"digest_at": "soon"}):
        page_again = await browser.post(PATH, data={**form, "MENTION": "email", **wrong})
        assert (page_again.status_code, "Nothing was saved." in page_again.text) == (422, True)
        assert page_again.text.count(" checked") == 1
    page = (await browser.get(PATH)).text
    assert all(part in page for part in shown)
    assert (await browser.post(PATH, data={"csrf_token": CSRF})).status_code == 303
    assert " selected" not in (await browser.get(PATH)).text
