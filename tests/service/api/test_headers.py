"""Security headers of every response; and the API's own documentation page, which needs more and can be disabled."""

import httpx2
import pytest
from fastapi import FastAPI

from services.conversations.app import create_app as create_conversations
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications
from services.notifications.settings import ApiSettings as NotificationsSettings
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import problem
from tests.service.helpers.connected import client_of

STRICT = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
EVERYWHERE = {"x-content-type-options": "nosniff", "cross-origin-opener-policy": "same-origin"}
DOCUMENTS = {
    "conversations": ("/docs", "/openapi.json"),
    "notifications": ("/api/v1/notifications/docs", "/api/v1/notifications/openapi.json"),
}


def conversations_app(url: str, **settings: object) -> FastAPI:
    return create_conversations(
        ConversationsSettings(conversations_database_url=url, auth_secret=[SECRET], **settings)  # type: ignore[arg-type]
    )


def notifications_app(url: str, **settings: object) -> FastAPI:
    return create_notifications(
        NotificationsSettings(notifications_database_url=url, auth_secret=[SECRET], **settings)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/conversations", 200),
        ("POST", "/api/v1/conversations", 422),
        ("PUT", "/api/v1/conversations", 405),
        ("GET", "/api/v1/admin/conversations", 403),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/chats-static/nothing.js", 404),
        ("GET", "/internal/events", 401),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
    ],
)
async def test_data_and_errors_may_not_run_scripts_or_be_framed_or_cached(
    api: httpx2.AsyncClient, acting_as: As, method: str, path: str, status: int
) -> None:
    answer = await api.request(method, path, headers=acting_as("anna"))
    assert answer.status_code == status
    assert (STRICT | EVERYWHERE).items() <= dict(answer.headers).items()


async def test_responses_to_oversized_bodies_and_crashes_have_the_headers_too(
    api: httpx2.AsyncClient, acting_as: As
) -> None:
    large = await api.post("/api/v1/conversations", headers=acting_as("anna"), content=b"x" * 70_000)
    assert large.status_code == 413

    def crash() -> None:
        raise RuntimeError

    app = conversations_app("postgresql://nowhere")
    app.add_api_route("/crash", crash)
    async with client_of(app) as browser:
        crashed, not_ready = await browser.get("/crash"), await browser.get("/readyz")
    assert (crashed.status_code, not_ready.status_code) == (500, 503)
    for answer in (large, crashed, not_ready):
        assert (STRICT | EVERYWHERE).items() <= dict(answer.headers).items()


async def test_the_notifications_service_sends_the_same_headers(
    notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    for path in ("/api/v1/notifications", "/api/v1/notifications/nothing", "/elsewhere", "/metrics"):
        answer = await notifications_api.get(path, headers=acting_as("anna"))
        assert (STRICT | EVERYWHERE).items() <= dict(answer.headers).items()


async def test_pages_and_static_files_keep_their_own_headers(api: httpx2.AsyncClient) -> None:
    page = await api.get("/dashboard/messages/")
    assert page.status_code == 401
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin"
    script = await api.get("/chats-static/badge.js")
    assert script.status_code == 200
    assert script.headers["cross-origin-resource-policy"] == "cross-origin"
    assert script.headers["cache-control"] == "public, max-age=300"
    for answer in (page, script):
        assert EVERYWHERE.items() <= dict(answer.headers).items()
        assert len(answer.headers.get_list("content-security-policy")) == 1
    assert "camera=()" in page.headers["permissions-policy"]
    assert "permissions-policy" not in script.headers  # scripts have no use for it, and a page has many


async def test_hsts_is_sent_exactly_when_the_public_url_is_https() -> None:
    for app in (conversations_app, notifications_app):
        for public, expected in (("https://store.test", "max-age=31536000"), ("http://127.0.0.1:8000", None)):
            async with client_of(app("postgresql://nowhere", public_url=public)) as browser:
                for path in ("/healthz", "/nothing", "/api/v1/notifications"):
                    answer = await browser.get(path)
                    assert answer.headers.get("strict-transport-security") == expected


@pytest.mark.parametrize("service", DOCUMENTS)
async def test_the_documentation_page_may_run_only_its_own_scripts(service: str) -> None:
    page_path, document = DOCUMENTS[service]
    app = {"conversations": conversations_app, "notifications": notifications_app}[service]
    async with client_of(app("postgresql://nowhere")) as browser:
        page = await browser.get(page_path)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self' 'sha256-" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert document in page.text
        assert (await browser.get(document)).json()["paths"]
        assert (await browser.get(f"{page_path}/static/swagger-ui-bundle.js")).status_code == 200


@pytest.mark.parametrize("service", DOCUMENTS)
async def test_the_document_and_its_page_can_be_disabled(service: str) -> None:
    app = {"conversations": conversations_app, "notifications": notifications_app}[service]
    async with client_of(app("postgresql://nowhere", docs=False)) as browser:
        for path in (*DOCUMENTS[service], "/docs/oauth2-redirect", "/docs/static/swagger-ui.css", "/redoc"):
            assert problem(await browser.get(path)) == (404, "not-found")
