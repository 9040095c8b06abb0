"""Admins' permissions, by token and by session."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.auth.principal import UNNAMED_PERMISSIONS, Permission
from shared.database.transactions import SessionFactory
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, aged, store_token
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import client_of, connect

INBOX = "/admin/dashboard/conversation/"


async def calling(
    conversations: SessionFactory, databases: dict[str, str], claim: str | None
) -> AsyncIterator[httpx2.AsyncClient]:
    settings = ApiSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        auth_permissions_claim=claim,
        redis_url=None,
    )
    app = create_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def restricted(conversations: SessionFactory, databases: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """An API that reads permissions from a claim."""
    async for client in calling(conversations, databases, "permissions"):
        yield client


async def closed(anna: Caller, sam: Caller) -> str:
    """Return the id of a closed conversation."""
    conversation = str((await anna.open())["id"])
    assert (await sam.call("PATCH", f"/conversations/{conversation}", {"status": "CLOSED"})).status_code == 200
    return conversation


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 403),
        ({"permissions": []}, 403),
        ({"permissions": ["reports", "Delete", 7, None, {}]}, 403),
        ({"permissions": {"delete": True}}, 403),
        ({"permissions": "undelete"}, 403),
        ({"permissions": ["delete"]}, 204),
        ({"permissions": "operations delete"}, 204),
    ],
)
async def test_only_admins_with_the_permission_delete(
    restricted: httpx2.AsyncClient, anna: Caller, sam: Caller, claims: dict[str, Any], status: int
) -> None:
    path = f"/api/v1/admin/conversations/{await closed(anna, sam)}"
    headers = {"Authorization": f"Bearer {store_token('sam', 'admin', **claims)}"}
    assert (await restricted.delete(path, headers=headers)).status_code == status
    many = await restricted.post(
        "/api/v1/admin/conversations/bulk-delete", json={"ids": [path.rpartition("/")[2]]}, headers=headers
    )
    assert many.status_code == (403 if status == 403 else 200)


async def test_a_session_has_the_permissions_of_the_token_that_it_began_with_also_when_renewed(
    restricted: httpx2.AsyncClient, anna: Caller, sam: Caller
) -> None:
    conversation = await closed(anna, sam)
    browser = Browser(restricted)
    for permissions, allowed in ([], False), (["delete"], True):
        await browser.submit("/session", token=store_token("sam", "admin", permissions=permissions))
        browser.token = aged(browser.token, 30)  # the next page renews it
        inbox = (await browser.get(INBOX)).text
        assert ("Delete selected" in inbox) == allowed
        assert ("/delete/" in (await browser.get(f"{INBOX}{conversation}/")).text) == allowed
        for path in (f"{INBOX}{conversation}/delete/", f"{INBOX}bulk-delete/?ids={conversation}"):
            assert (await browser.get(path)).status_code == (200 if allowed else 403)
    assert (await browser.call("POST", "/session/renew")).status_code == 204
    csrf = browser.claims["csrf"]
    answer = await browser.submit(f"{INBOX}{conversation}/delete/", csrf_token=csrf)
    assert answer.status_code == 303


async def test_a_form_of_an_admin_without_the_permission_deletes_nothing(
    restricted: httpx2.AsyncClient, anna: Caller, sam: Caller
) -> None:
    conversation = await closed(anna, sam)
    browser = Browser(restricted)
    await browser.submit("/session", token=store_token("sam", "admin"))
    for path in (f"{INBOX}{conversation}/delete/", f"{INBOX}bulk-delete/"):
        answer = await browser.submit(path, csrf_token=browser.claims["csrf"], ids=conversation)
        assert answer.status_code == 403
    assert (await sam.get(f"/conversations/{conversation}"))["id"] == conversation


async def test_without_a_claim_every_admin_may_delete_whatever_an_earlier_cookie_says(
    conversations: SessionFactory, databases: dict[str, str], restricted: httpx2.AsyncClient, anna: Caller, sam: Caller
) -> None:
    conversation = await closed(anna, sam)
    before = Browser(restricted)
    await before.submit("/session", token=store_token("sam", "admin"))
    async for client in calling(conversations, databases, None):
        browser = Browser(client)
        browser.token = before.token
        answer = await browser.submit(f"{INBOX}{conversation}/delete/", csrf_token=browser.claims["csrf"])
        assert answer.status_code == 303


def test_without_a_claim_every_admin_has_all_permissions_but_those_of_operators() -> None:
    assert set(Permission) - UNNAMED_PERMISSIONS == {Permission.OPERATIONS, Permission.WEBHOOKS}


@pytest.mark.parametrize(
    ("permission", "paths"),
    [("reports", ("/admin/reports/", "/admin/reports/report.csv")), ("audit", ("/admin/audit/",))],
)
async def test_pages_and_their_links_are_for_admins_with_the_permission(
    restricted: httpx2.AsyncClient, permission: str, paths: tuple[str, ...]
) -> None:
    others = {"delete", "reports", "audit", "operations", "webhooks"} - {permission}
    for permissions, status in (others, 403), ({permission}, 200):
        browser = Browser(restricted)
        await browser.submit("/session", token=store_token("sam", "admin", permissions=sorted(permissions)))
        assert (f'href="{paths[0]}"' in (await browser.get(INBOX)).text) == (status == 200)
        for path in paths:
            assert (await browser.get(path)).status_code == status
