"""The OpenAPI documents are complete, valid and correct; and cross-origin requests of the store's pages."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from services.conversations.app import create_app
from services.conversations.rules import WebhookType
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory
from shared.problems import PATTERNS
from tests.service.access.table import ROWS
from tests.service.conftest import SECRET
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import client_of, connect

ORIGIN = "https://store.test"
NOTIFICATIONS = "/api/v1/notifications/openapi.json"
OPERATIONS = (
    "/api/v1/notifications/operations",
    "/api/v1/notifications/parked",
    "/api/v1/notifications/emails/retry",
)


@pytest.fixture
async def document(api: httpx2.AsyncClient) -> Any:
    return (await api.get("/openapi.json")).json()


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in document["paths"].items():
        if path == "/session":
            continue
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from patterns(inner)


async def test_each_pattern_has_words_for_its_error(document: Any, notifications_api: httpx2.AsyncClient) -> None:
    found = {*patterns(document), *patterns((await notifications_api.get(NOTIFICATIONS)).json())}
    checked_by_code = {pattern for pattern in found if pattern.startswith("^-?[0-9]")}  # amounts of money
    assert found - checked_by_code <= set(PATTERNS)


async def test_the_documents_are_valid(api: httpx2.AsyncClient, notifications_api: httpx2.AsyncClient) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415 - takes a second of CPU, in each worker

    for client, path in ((api, "/openapi.json"), (notifications_api, NOTIFICATIONS)):
        document = (await client.get(path)).json()
        assert document["openapi"].startswith("3.1.")
        assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


LIMITED = {
    "POST /api/v1/conversations",
    "POST /api/v1/conversations/{conversation_id}/messages",
    "POST /api/v1/admin/conversations",
    "POST /api/v1/admin/conversations/{conversation_id}/messages",
    "PATCH /api/v1/admin/conversations/{conversation_id}",
    "POST /api/v1/attachments",
}


async def test_every_reference_has_a_target_and_every_schema_is_referenced(document: Any) -> None:
    found = set(references(document))
    assert found == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


async def test_every_operation_has_a_description_and_a_unique_name(document: Any) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    for name, operation in operations(document):
        assert operation["summary"] != operation["operationId"].replace("_", " ").title(), f"{name} needs a summary"
        assert operation["description"].endswith("."), name
        assert set(operation["tags"]) <= {tag["name"] for tag in document["tags"]}, name
        assert re.fullmatch("[a-z_]{3,40}", operation["operationId"]), "clients are generated with this name"
        for parameter in operation.get("parameters", []):
            assert parameter["description"].endswith("."), (name, parameter["name"])


async def test_every_field_has_a_description(document: Any, notifications_api: httpx2.AsyncClient) -> None:
    for described in (document, (await notifications_api.get(NOTIFICATIONS)).json()):
        for name, schema in described["components"]["schemas"].items():
            for field, about in schema.get("properties", {}).items():
                assert schema["title"] == name, "clients are generated with this name"
                assert about.get("description", "").endswith("."), f"describe {name}.{field} in api/docs/fields.py"


async def test_the_sign_in_from_the_store_is_documented(document: Any) -> None:
    [(method, operation)] = document["paths"]["/session"].items()
    assert (method, operation["operationId"]) == ("post", "begin_session")
    [(media, body)] = operation["requestBody"]["content"].items()
    assert media == "application/x-www-form-urlencoded"
    fields = document["components"]["schemas"][body["schema"]["$ref"].split("/")[-1]]["properties"]
    assert {name: bool(field["description"]) for name, field in fields.items()} == {"token": True, "next": True}
    assert "security" not in operation
    assert {*operation["responses"]} == {"303", "401", "403", "408", "413", "414", "422", "429", "431", "503"}
    assert {*operation["responses"]["401"]["content"]} == {"text/html"}


async def test_every_operation_declares_its_errors_as_problems_with_examples(document: Any) -> None:
    for name, operation in operations(document):
        expected = {"401", "403", "414", "422", "431", "503"}
        expected |= {"408", "413"} if "requestBody" in operation else set()
        named = ("{conversation_id}", "{erasure_id}", "{label}", "{canned_reply_id}", "{attachment_id}", "{webhook_id}")
        expected |= {"404"} if any(part in name for part in (*named, "/export", "/erasure-preview")) else set()
        expected |= {"429"} if name.endswith("/stream") or name in LIMITED else set()
        declared = {status for status in operation["responses"] if status >= "400"}
        assert expected <= declared <= expected | {"409"}, name
        for status in declared:
            (media,) = operation["responses"][status]["content"].items()
            assert media[0] == "application/problem+json"
            assert media[1]["schema"] == {"$ref": "#/components/schemas/ProblemBody"}
            for code, example in media[1]["examples"].items():
                assert (example["value"]["code"], example["value"]["status"]) == (code, int(status))
                assert ("errors" in example["value"]) == (status == "422")
                assert example["summary"].endswith("."), f"the docstring of {code} says what causes it"
                assert example["description"].endswith("."), f"the remedy of {code} says what to do"


async def test_conflicts_are_declared_where_they_happen(document: Any) -> None:
    found = {
        name.replace("/api/v1", ""): {*operation["responses"]["409"]["content"]["application/problem+json"]["examples"]}
        for name, operation in operations(document)
        if "409" in operation["responses"]
    }
    assert found == {
        "POST /conversations/{conversation_id}/messages": {"newer-messages"},
        "POST /admin/conversations/{conversation_id}/messages": {"newer-messages"},
        "PATCH /admin/conversations/{conversation_id}": {"newer-messages", "status-changed"},
        "DELETE /admin/conversations/{conversation_id}": {"conversation-not-closed"},
        "POST /admin/conversations/bulk-delete": {"conversation-not-closed"},
        "PUT /admin/conversations/{conversation_id}/assignee": {"assignee-changed"},
        "PATCH /admin/labels/{label}": {"label-taken"},
        "POST /admin/canned-replies": {"shortcut-taken"},
        "PUT /admin/canned-replies/{canned_reply_id}": {"shortcut-taken"},
        "PUT /store/orders/{order_id}": {"order-of-another-user"},
        "POST /store/webhooks": {"too-many-webhooks"},
        "POST /store/users/{user_id}/merge": {"cannot-merge"},
        **{f"GET /attachments/{{attachment_id}}{path}": {"file-not-ready"} for path in ("", "/thumbnail", "/picture")},
    }


async def test_the_webhooks_that_we_send_are_described_with_their_bodies(document: Any) -> None:
    assert set(document["webhooks"]) == {*WebhookType, "webhook.test"}
    for name, methods in document["webhooks"].items():
        operation = methods["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"]["type"] == {"const": name}
        assert operation["operationId"] == f"webhook_{name.replace('.', '_')}"
    changed = document["webhooks"]["conversation.status_changed"]["post"]["requestBody"]["content"]
    data = changed["application/json"]["schema"]["properties"]["data"]["$ref"].rpartition("/")[2]
    assert {"from", "to", "conversation"} <= set(document["components"]["schemas"][data]["required"])


async def test_every_operation_requires_a_bearer_token(document: Any) -> None:
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for name, operation in operations(document):
        assert operation["security"] == [{"HTTPBearer": []}], name


async def test_the_roles_of_every_operation_are_those_of_the_access_table(
    document: Any, notifications_api: httpx2.AsyncClient
) -> None:
    described = {"conversations": document, "notifications": (await notifications_api.get(NOTIFICATIONS)).json()}
    for row in ROWS:
        operation = described[row.service]["paths"].get(row.path, {}).get(row.method.lower())
        if operation is None or "x-roles" not in operation:
            continue
        callers = {"customer": "owner", "admin": "admin", "store": "store"}
        refused = {role for role, caller in callers.items() if row.statuses[caller] == 403}
        needs_permission = row.path.startswith(OPERATIONS) and "x-roles" in operation
        assert {*operation["x-roles"]} == {*callers} - refused | ({"admin"} if needs_permission else set()), row.route


async def test_every_body_has_an_example_with_all_required_fields(document: Any) -> None:
    for name, operation in operations(document):
        if "requestBody" not in operation:
            continue
        if name == "POST /api/v1/attachments":  # any bytes
            continue
        [media] = operation["requestBody"]["content"].values()
        named = media["schema"].get("$ref", "").split("/")[-1]
        for schema in [document["components"]["schemas"][named]] if named else media["x-itemSchema"]["oneOf"]:
            assert schema["examples"], name
            assert schema["description"], name
            for example in schema["examples"]:
                assert set(schema.get("required", [])) <= set(example) <= set(schema["properties"])


async def test_the_document_can_be_read_in_a_browser(api: httpx2.AsyncClient) -> None:
    page = await api.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


@pytest.fixture
async def open_api(conversations: SessionFactory, databases: dict[str, str]) -> Any:
    """A client of an API with a store origin in its settings."""
    settings = ApiSettings(
        conversations_database_url=databases["conversations"], auth_secret=[SECRET], store_origins=[ORIGIN]
    )
    app = create_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        yield client


def preflight(origin: str) -> dict[str, str]:
    headers = "authorization, content-disposition, content-type, idempotency-key"
    return {"Origin": origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": headers}


async def test_the_stores_pages_may_call_the_api_and_read_its_responses(
    open_api: httpx2.AsyncClient, anna: Caller
) -> None:
    response = await open_api.options("/api/v1/conversations", headers=preflight(ORIGIN))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "PATCH" in response.headers["access-control-allow-methods"]
    for headers, status in ((anna.headers, 200), ({}, 401)):
        answer = await open_api.get("/api/v1/conversations", headers={**headers, "Origin": ORIGIN})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "Idempotency-Replayed" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_other_origins_may_not_and_by_default_none_may(
    open_api: httpx2.AsyncClient, api: httpx2.AsyncClient, anna: Caller
) -> None:
    for client, origin, path in (
        (open_api, "https://evil.test", "/api/v1/conversations"),
        (open_api, "null", "/api/v1/conversations"),
        (open_api, f"{ORIGIN}.evil.test", "/api/v1/conversations"),
        (open_api, ORIGIN, "/openapi.json"),
        (api, ORIGIN, "/api/v1/conversations"),
    ):
        assert "access-control-allow-origin" not in (await client.options(path, headers=preflight(origin))).headers
        answer = await client.get(path, headers={**anna.headers, "Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
    refused = await open_api.options("/api/v1/conversations", headers=preflight("https://evil.test"))
    assert problem(refused) == (400, "bad-request")
    assert problem(await api.options("/api/v1/conversations", headers=preflight(ORIGIN)))[0] == 405
