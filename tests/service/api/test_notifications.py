"""The API of the notifications service, call by call, and what careless and hostile callers get."""

from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import select, update

from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email, Notification
from services.notifications.rules import EmailState
from shared.database import SessionFactory, transaction
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
        for operation in methods.values():
            expected = {"401", "403", "414", "422", "431", "503"} | ({"404"} if "{" in path else set())
            expected |= {"409"} if path.endswith("/retry") else set()
            assert {status for status in operation["responses"] if status >= "400"} == expected
            assert operation["description"].endswith(".")
    assert (await notifications_api.get("/api/v1/notifications/docs")).status_code == 200


async def test_a_deleted_user_is_refused_until_the_store_sends_them_again(
    notifications: SessionFactory, customer: Caller
) -> None:
    await receive(notifications, SETTINGS, user_changed(ANNA.model_copy(update={"version": 2, "deleted": True})))
    assert problem(await customer.call("GET", "")) == (401, "unauthenticated")
    await receive(notifications, SETTINGS, user_changed(ANNA.model_copy(update={"version": 3})))
    assert (await customer.call("GET", "")).status_code == 200


async def test_a_record_shows_what_the_contract_says(notifications: SessionFactory, customer: Caller) -> None:
    conversation = uuid4()
    message = posted(conversation, 1, body="Here \n\t it\u2028 is. " + "x" * 200)
    await receive(notifications, SETTINGS, message)

    [record] = (await customer.get(""))["items"]

    assert UUID(record.pop("id"))
    assert record.pop("created_at").endswith("Z")
    assert record == {
        "type": "NEW_MESSAGE",
        "conversation_id": str(conversation),
        "message_id": (message.payload or {})["message"]["id"],
        "subject": "Where is my parcel?",
        "sender_name": "Sam",
        "preview": "Here it is. " + "x" * 127 + "…",
        "is_read": False,
    }


async def test_a_nameless_admin_shows_as_the_store(notifications: SessionFactory, customer: Caller) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    await receive(notifications, SETTINGS, user_changed(Person(id="sam", version=2, deleted=True)))
    [record] = (await customer.get(""))["items"]
    assert record["sender_name"] == "Test Store"
    assert "sam" not in str(record).lower()


async def test_records_come_newest_first_page_by_page_each_once(
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


async def test_unread_ones_are_filtered_and_counted(notifications: SessionFactory, customer: Caller) -> None:
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


async def test_reading_all_reads_nothing_of_others(
    notifications: SessionFactory, customer: Caller, other: Caller
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1), posted(uuid4(), 1, customer=BEN))
    await customer.call("POST", "/read-all")
    assert await other.get("/unread") == {"unread": 1}
    async with notifications() as session:
        rows = await session.execute(select(Email.recipient_id, Email.state))
        assert {row.recipient_id: row.state for row in rows} == {"anna": "cancelled", "ben": "scheduled"}


async def test_anothers_record_is_as_one_that_does_not_exist(
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
async def test_a_limit_or_cursor_that_is_none_is_refused(
    customer: Caller, admin: Caller, path: str, params: dict[str, str]
) -> None:
    caller = admin if path else customer
    answer = await caller.call("GET", path, params=params)
    assert problem(answer) == INVALID
    assert answer.json()["errors"][0]["loc"] == ["query", *params]


async def test_a_cursor_is_of_its_list_its_caller_and_its_filters_only(
    notifications: SessionFactory, customer: Caller, other: Caller, admin: Caller
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1), posted(conversation, 2), posted(uuid4(), 1))
    mine = (await customer.get("", limit=1))["next_cursor"]
    mails = (await admin.get("/emails", limit=1))["next_cursor"]
    for caller, path, cursor, filters in (
        (other, "", mine, {}),
        (customer, "", mine, {"unread": "true"}),
        (customer, "", mails, {}),
        (admin, "/emails", mine, {}),
        (admin, "/emails", mails, {"state": "sent"}),
        (admin, "/emails", mails, {"conversation_id": NOWHERE}),
    ):
        assert problem(await caller.call("GET", path, params={"cursor": cursor, **filters})) == INVALID


@pytest.mark.parametrize(
    "params", [{"unread": "perhaps"}, {"state": "nonsense"}, {"state": ""}, {"conversation_id": "x"}]
)
async def test_a_filter_that_is_none_is_refused(customer: Caller, admin: Caller, params: dict[str, str]) -> None:
    caller, path = (customer, "") if "unread" in params else (admin, "/emails")
    assert problem(await caller.call("GET", path, params=params)) == INVALID


async def test_an_unknown_query_parameter_is_refused(customer: Caller, admin: Caller) -> None:
    for caller, path in ((customer, "?read=true"), (customer, "/unread?x"), (admin, "/emails?states=failed")):
        assert problem(await caller.call("GET", path)) == (422, "unknown-parameter")


@pytest.mark.parametrize("identity", ["x", "0", "%00", "é", "1" * 300, "..", "%2e%2e", "'", "%F0%9F"])
async def test_an_id_that_is_none_is_not_found(customer: Caller, admin: Caller, identity: str) -> None:
    assert problem(await customer.call("POST", f"/{identity}/read")) == NOT_FOUND
    assert problem(await admin.call("POST", f"/emails/{identity}/retry")) == NOT_FOUND


async def test_other_methods_and_paths_are_problems_too(customer: Caller, admin: Caller) -> None:
    for method, path in (("DELETE", ""), ("POST", ""), ("PUT", "/unread"), ("GET", "/read-all"), ("PATCH", "/emails")):
        assert problem(await customer.call(method, path)) == (405, "method-not-allowed")
    for path in ("/", "/unread/", f"/{NOWHERE}", "/emails/", f"/emails/{NOWHERE}", "/metrics", "/../internal/events"):
        assert problem(await admin.call("GET", path)) == NOT_FOUND


async def test_admins_see_what_became_of_each_mail(notifications: SessionFactory, admin: Caller) -> None:
    conversation, settings = uuid4(), email_settings("postgresql://unused", support_email="desk@store.test")
    message = posted(conversation, 1)
    await receive(notifications, settings, message, posted(uuid4(), 1, by="customer"))

    [shown] = (await admin.get("/emails", conversation_id=str(conversation)))["items"]

    assert (shown["audience"], shown["user_id"], shown["state"], shown["reason"]) == (
        "customer",
        "anna",
        "scheduled",
        None,
    )
    assert shown["message_ids"] == [(message.payload or {})["message"]["id"]]
    assert shown["due_at"] == shown["next_attempt_at"]
    assert (shown["tries"], shown["finished_at"]) == ([], None)
    assert len(await admin.pages("/emails", limit=1)) == 2
    assert len((await admin.get("/emails", state="scheduled"))["items"]) == 2
    assert (await admin.get("/emails", state="sent"))["items"] == []
    assert {item["user_id"] for item in (await admin.get("/emails"))["items"]} == {"anna", None}


@pytest.mark.parametrize("state", EmailState)
async def test_only_a_failed_mail_is_due_again(notifications: SessionFactory, admin: Caller, state: EmailState) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, SETTINGS)
        await session.execute(update(Email).values(state=state, reason="rejected", counted_tries=9))
    [before] = (await admin.get("/emails"))["items"]

    answer = await admin.call("POST", f"/emails/{before['id']}/retry")

    [after] = (await admin.get("/emails"))["items"]
    if state is EmailState.FAILED:
        assert answer.status_code == 204
        assert (after["state"], after["reason"]) == ("scheduled", None)
    else:
        assert problem(answer) == (409, "email-not-failed")
        assert after == before


async def test_a_record_is_made_for_a_customer_without_address(notifications: SessionFactory, customer: Caller) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1, customer=ANNA.model_copy(update={"email": None})))
    assert await customer.get("/unread") == {"unread": 1}
    async with notifications() as session:
        assert (await session.scalars(select(Notification.user_id))).all() == ["anna"]


async def test_a_token_is_refused_with_its_reason(notifications_api: httpx2.AsyncClient) -> None:
    expired = {"Authorization": f"Bearer {store_token(seconds=-60)}"}
    answer = await notifications_api.get("/api/v1/notifications", headers=expired)
    assert problem(answer) == (401, "unauthenticated")
    assert answer.json()["reason"] == "expired"
