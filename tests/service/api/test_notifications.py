"""The API of the notifications service, with valid, careless and hostile requests."""

from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import select, update

from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email, Notification
from services.notifications.rules import EmailState
from shared.database.transactions import SessionFactory, transaction
from shared.people import Person
from tests.service.conftest import As
from tests.service.helpers.browser import store_token
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.event_factory import ANNA, email_settings, posted, read, receive, user_changed

SETTINGS = email_settings("postgresql://unused")
BEN = Person(id="ben", version=1, name="Ben", email="ben@customer.test")
NOWHERE = "01900000-0000-7000-8000-000000000000"
INVALID, NOT_FOUND = (422, "validation-failed"), (404, "not-found")
each_list = pytest.mark.parametrize("path", ["", "/emails"])


@pytest.fixture
def customer(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("anna"))


@pytest.fixture
def other(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("ben"))


@pytest.fixture
def admin(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("sam", "admin"))


async def test_every_operation_declares_its_errors(notifications_api: httpx2.AsyncClient) -> None:
    document = (await notifications_api.get("/api/v1/notifications/openapi.json")).json()
    for path, methods in document["paths"].items():
        if path.endswith("/inbound/mime"):  # a mail provider's, with answers of its own
            continue
        for operation in methods.values():
            expected = {"401", "403", "414", "422", "431", "503"} | ({"404"} if "{" in path else set())
            conflicts = path.endswith(("}/retry", "}/post", "}/discard")) and "/parked/" not in path
            expected |= {"409"} if conflicts else set()
            expected |= {"408", "413"} if "requestBody" in operation else set()
            assert {status for status in operation["responses"] if status >= "400"} == expected
            assert operation["description"].endswith(".")
    assert (await notifications_api.get("/api/v1/notifications/docs")).status_code == 200


async def test_a_deleted_user_is_rejected_until_the_store_syncs_them_again(
    notifications: SessionFactory, customer: Caller
) -> None:
    await receive(notifications, SETTINGS, user_changed(ANNA.model_copy(update={"version": 2, "deleted": True})))
    assert problem(await customer.call("GET", "")) == (401, "unauthenticated")
    await receive(notifications, SETTINGS, user_changed(ANNA.model_copy(update={"version": 3})))
    assert (await customer.call("GET", "")).status_code == 200


async def test_a_notification_has_the_fields_of_the_contract(notifications: SessionFactory, customer: Caller) -> None:
    conversation = uuid4()
    message = posted(conversation, 1, body="Here \n\t it\u2028 is. " + "x" * 200)
    await receive(notifications, SETTINGS, message)

    [notification] = (await customer.get(""))["items"]

    assert UUID(notification.pop("id"))
    assert notification.pop("created_at").endswith("Z")
    assert notification == {
        "type": "NEW_MESSAGE",
        "conversation_id": str(conversation),
        "message_id": (message.payload or {})["message"]["id"],
        "subject": "Where is my parcel?",
        "sender_name": "Sam",
        "preview": "Here it is. " + "x" * 127 + "…",
        "is_read": False,
    }


async def test_a_nameless_admin_appears_as_the_store(notifications: SessionFactory, customer: Caller) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    await receive(notifications, SETTINGS, user_changed(Person(id="sam", version=2, deleted=True)))
    [notification] = (await customer.get(""))["items"]
    assert notification["sender_name"] == "Test Store"
    assert "sam" not in str(notification).lower()


async def test_notifications_come_newest_first_page_by_page_each_once(
    notifications: SessionFactory, customer: Caller
) -> None:
    conversation = uuid4()
    events = [posted(conversation, number) for number in range(1, 8)]
    await receive(notifications, SETTINGS, *events)
    ids = [(event.payload or {})["message"]["id"] for event in reversed(events)]

    first = await customer.get("", limit=3)
    await receive(notifications, SETTINGS, posted(conversation, 8))
    second = await customer.get("", limit=3, cursor=first["next_cursor"])
    third = await customer.get("", limit=3, cursor=second["next_cursor"])

    assert [item["message_id"] for page in (first, second, third) for item in page["items"]] == ids
    assert third["next_cursor"] is None
    assert len((await customer.get("", limit=8))["items"]) == 8
    assert (await customer.get("", limit=8))["next_cursor"] is None


async def test_unread_notifications_are_filtered_and_counted(notifications: SessionFactory, customer: Caller) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, *(posted(conversation, n) for n in range(1, 6)), read(conversation, 2))
    assert len(await customer.pages("", unread="true", limit=2)) == 2
    assert len((await customer.get("", unread="false"))["items"]) == 2
    assert await customer.get("/unread") == {"unread": 3}
    [one, *_] = (await customer.get("", unread="true"))["items"]
    for _ in range(2):
        answer = await customer.call("POST", f"/{one['id']}/read")
        assert (answer.status_code, answer.content) == (204, b"")
    assert await customer.get("/unread") == {"unread": 2}
    assert (await customer.call("POST", "/read-all")).status_code == 204
    assert await customer.get("/unread") == {"unread": 0}


async def test_reading_all_marks_only_the_callers_own_notifications(
    notifications: SessionFactory, customer: Caller, other: Caller
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1), posted(uuid4(), 1, customer=BEN))
    await customer.call("POST", "/read-all")
    assert await other.get("/unread") == {"unread": 1}
    async with notifications() as session:
        rows = await session.execute(select(Email.recipient_id, Email.state))
        assert {row.recipient_id: row.state for row in rows} == {"anna": "cancelled", "ben": "scheduled"}


async def test_anothers_notification_is_indistinguishable_from_a_missing_one(
    notifications: SessionFactory, customer: Caller, other: Caller
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    [record] = (await customer.get(""))["items"]
    answers = [await other.call("POST", f"/{one}/read") for one in (record["id"], NOWHERE)]
    assert [problem(answer) for answer in answers] == [NOT_FOUND, NOT_FOUND]
    assert answers[0].content == answers[1].content
    assert await customer.get("/unread") == {"unread": 1}


@each_list
@pytest.mark.parametrize(
    "params",
    [{"limit": value} for value in ("0", "101", "-1", "1.5", "x", "")]
    + [{"cursor": value} for value in ("", "x", "é", "====", "bnVsbA", "W10", "\0", "A" * 1001, "WyIiLCIiXQ")],
)
async def test_an_invalid_limit_or_cursor_is_rejected(
    customer: Caller, admin: Caller, path: str, params: dict[str, str]
) -> None:
    caller = admin if path else customer
    answer = await caller.call("GET", path, params=params)
    assert problem(answer) == INVALID
    assert answer.json()["errors"][0]["loc"] == ["query", *params]


async def test_a_cursor_is_valid_only_for_its_list_its_caller_and_its_filters(
    notifications: SessionFactory, customer: Caller, other: Caller, admin: Caller
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1), posted(conversation, 2), posted(uuid4(), 1))
    own_cursor = (await customer.get("", limit=1))["next_cursor"]
    email_cursor = (await admin.get("/emails", limit=1))["next_cursor"]
    for caller, path, cursor, filters in (
        (other, "", own_cursor, {}),
        (customer, "", own_cursor, {"unread": "true"}),
        (customer, "", email_cursor, {}),
        (admin, "/emails", own_cursor, {}),
        (admin, "/emails", email_cursor, {"state": "sent"}),
        (admin, "/emails", email_cursor, {"conversation_id": NOWHERE}),
    ):
        assert problem(await caller.call("GET", path, params={"cursor": cursor, **filters})) == INVALID


@pytest.mark.parametrize(
    "params", [{"unread": "perhaps"}, {"state": "nonsense"}, {"state": ""}, {"conversation_id": "x"}]
)
async def test_an_invalid_filter_is_rejected(customer: Caller, admin: Caller, params: dict[str, str]) -> None:
    caller, path = (customer, "") if "unread" in params else (admin, "/emails")
    assert problem(await caller.call("GET", path, params=params)) == INVALID


async def test_an_unknown_query_parameter_is_rejected(customer: Caller, admin: Caller) -> None:
    for caller, path in ((customer, "?read=true"), (customer, "/unread?x"), (admin, "/emails?states=failed")):
        assert problem(await caller.call("GET", path)) == (422, "unknown-parameter")
    for caller, path in ((customer, "?unread=true&unread=false"), (admin, "/emails?state=sent&state=failed")):
        assert problem(await caller.call("GET", path)) == INVALID


@pytest.mark.parametrize("invalid_id", ["x", "0", "%00", "é", "1" * 300, "..", "%2e%2e", "'", "%F0%9F"])
async def test_an_invalid_id_is_not_found(customer: Caller, admin: Caller, invalid_id: str) -> None:
    assert problem(await customer.call("POST", f"/{invalid_id}/read")) == NOT_FOUND
    assert problem(await admin.call("POST", f"/emails/{invalid_id}/retry")) == NOT_FOUND


async def test_unknown_methods_and_paths_are_problems_too(customer: Caller, admin: Caller) -> None:
    for method, path in (("DELETE", ""), ("POST", ""), ("PUT", "/unread"), ("GET", "/read-all"), ("PATCH", "/emails")):
        assert problem(await customer.call(method, path)) == (405, "method-not-allowed")
    for path in ("/", "/unread/", f"/{NOWHERE}", "/emails/", f"/emails/{NOWHERE}", "/metrics", "/../internal/events"):
        assert problem(await admin.call("GET", path)) == NOT_FOUND


async def test_admins_see_the_state_of_each_email(notifications: SessionFactory, admin: Caller) -> None:
    conversation, settings = uuid4(), email_settings("postgresql://unused", support_email="desk@store.test")
    message = posted(conversation, 1)
    await receive(notifications, settings, message, posted(uuid4(), 1, by="customer"))

    [email] = (await admin.get("/emails", conversation_id=str(conversation)))["items"]

    assert (email["audience"], email["user_id"], email["state"], email["reason"]) == (
        "customer",
        "anna",
        "scheduled",
        None,
    )
    assert email["message_ids"] == [(message.payload or {})["message"]["id"]]
    assert email["due_at"] == email["next_attempt_at"]
    assert (email["tries"], email["finished_at"]) == ([], None)
    assert len(await admin.pages("/emails", limit=1)) == 2
    assert len((await admin.get("/emails", state="scheduled"))["items"]) == 2
    assert (await admin.get("/emails", state="sent"))["items"] == []
    assert {item["user_id"] for item in (await admin.get("/emails"))["items"]} == {"anna", None}


@pytest.mark.parametrize("state", EmailState)
async def test_only_a_failed_or_bounced_email_can_be_retried(
    notifications: SessionFactory, admin: Caller, state: EmailState
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, SETTINGS)
        await session.execute(update(Email).values(state=state, reason="rejected", counted_tries=9))
    [before] = (await admin.get("/emails"))["items"]

    answer = await admin.call("POST", f"/emails/{before['id']}/retry")

    [after] = (await admin.get("/emails"))["items"]
    if state in {EmailState.FAILED, EmailState.BOUNCED}:
        assert answer.status_code == 204
        assert (after["state"], after["reason"]) == ("scheduled", None)
    else:
        assert problem(answer) == (409, "email-not-failed")
        assert after == before


async def test_a_customer_without_an_address_gets_a_notification(
    notifications: SessionFactory, customer: Caller
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1, customer=ANNA.model_copy(update={"email": None})))
    assert await customer.get("/unread") == {"unread": 1}
    async with notifications() as session:
        assert (await session.scalars(select(Notification.user_id))).all() == ["anna"]


async def test_a_rejected_tokens_reason_is_reported(notifications_api: httpx2.AsyncClient) -> None:
    expired = {"Authorization": f"Bearer {store_token(seconds=-60)}"}
    answer = await notifications_api.get("/api/v1/notifications", headers=expired)
    assert problem(answer) == (401, "unauthenticated")
    assert answer.json()["reason"] == "expired"
