"""Attempts to bypass the table: other spellings of routes, ids, filters and cursors."""

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from shared.paging import encode_cursor
from tests.service.access.asgi import Answer
from tests.service.access.credentials import OTHER, OWNER, Credential
from tests.service.access.table import ROWS, Row, routes_of
from tests.service.access.world import UUIDS, World, filled
from tests.service.helpers.callers import UNKNOWN_ID

REFUSED = {401, 403, 404, 405}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OF_ONE = [row for row in ROWS if "{conversation_id}" in row.path or "{notification_id}" in row.path]
CUSTOMERS_OF_ONE = [row for row in OF_ONE if row.statuses["owner"] < 400 and not row.is_public]
LISTS = {
    "/api/v1/conversations": "user_id order_id conversation_id id",
    "/api/v1/conversations/{own}/messages": "user_id conversation_id",
    "/api/v1/orders": "user_id order_id id",
    "/api/v1/unread": "user_id",
    "/api/v1/notifications": "user_id conversation_id id",
    "/api/v1/notifications/unread": "user_id",
    "/dashboard/messages/": "user_id order_id id",
    "/dashboard/messages/new/": "user_id",
    "/dashboard/messages/{own}/": "user_id conversation_id earlier_than",
}


def row_of(path: str, method: str = "GET") -> Row:
    """Return the row of a route."""
    return next(row for row in ROWS if (row.method, row.path) == (method, path))


def other(world: World, row: Row) -> Credential:
    """Return the credential of a customer who is not the owner."""
    return next(world.wallet.of("other", row))


def without_ids(answer: Answer) -> tuple[int, str]:
    return answer.status, UUIDS.sub("-", re.sub(r"x-request-id: .*", "", answer.text))


def test_a_route_without_a_row_is_noticed() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/told")(lambda: None)
    before = routes_of(app)
    app.post("/told")(lambda: None)
    app.get("/hidden", include_in_schema=False)(lambda: None)
    app.websocket("/socket")(lambda: None)
    app.mount("/below", FastAPI())
    assert routes_of(app) - before == {"POST /told", "GET /hidden", "ANY /socket", "GET /below{file}"}


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
async def test_other_methods_reveal_and_change_nothing(world: World, path: str) -> None:
    rows = [row for row in ROWS if row.path == path]
    known = {row.method for row in rows}
    known |= {"HEAD"} if "GET" in known and path != "/api/v1/stream" else set()  # tested in test_matrix
    credential = other(world, rows[0])
    async with world.undone(rows[0].service):
        for method in METHODS:
            if method in known:
                continue
            answer = await world.play(rows[0], credential, method=method)
            assert answer.status in REFUSED, (method, answer.text)
            assert world.revealed(answer, rows[0]) <= {OTHER}, (method, answer.text)
            nothing = await world.play(rows[0], credential, method=method, missing=True)
            assert without_ids(answer) == without_ids(nothing), method
        assert await world.state(rows[0].service) == world.before[rows[0].service]


def spellings(value: str) -> Iterator[str]:
    """Return an id in all spellings that something on the way might normalize to the same id."""
    plain = value.replace("-", "")
    yield from (value.upper(), plain, plain.upper(), f"{{{value}}}", f"%7B{value}%7D", f"urn:uuid:{value}")
    yield from (f"%{ord(value[0]):x}{value[1:]}", f"%25{ord(value[0]):x}{value[1:]}")
    yield from (f"{value}%00", f"{value}%20", f"%20{value}", f"{value};x=1", f"{value},{UNKNOWN_ID}")
    yield from (f"{value}.json", f"{value}%0d%0aX-Y:z", f"%EF%BC%90{value[1:]}", f"{value}*", "%2a", "*")


@pytest.mark.parametrize("row", CUSTOMERS_OF_ONE, ids=str)
async def test_no_spelling_of_an_id_gives_access_to_it(world: World, row: Row) -> None:
    [name] = {*re.findall(r"{(\w+)}", row.path)}
    credential = other(world, row)
    async with world.undone(row.service):
        for owners_id, unknown_id in zip(spellings(world.owners[name]), spellings(UNKNOWN_ID), strict=True):
            answer = await world.play(row, credential, target=row.target.replace(f"{{{name}}}", owners_id))
            nothing = await world.play(row, credential, target=row.target.replace(f"{{{name}}}", unknown_id))
            assert answer.status == nothing.status, (owners_id, answer.text)
            assert answer.status in REFUSED, (owners_id, answer.text)
            assert world.revealed(answer, row) <= {OTHER}, (owners_id, answer.text)
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("row", CUSTOMERS_OF_ONE, ids=str)
async def test_no_spelling_of_a_path_bypasses_a_routes_rules(world: World, row: Row) -> None:
    owned = filled(row.path, world.owners)
    own = row.path.replace("{conversation_id}", world.owners["others_conversation_id"])
    parts = owned.split("/")
    paths = [
        f"/{owned}", f"/.{owned}", f"/x/..{owned}", f"/%2e%2e{owned}", f"{owned}//", f"{owned}/.", f"{owned}/..",
        f"{owned}%2f",
        f"{own}/..{owned}", f"{own}/../../../../..{owned}", f"{own}%2f..%2f..{owned}", owned.replace("/", "//"),
        owned.replace("/", "\\"), owned.replace("/", "%2f"), owned.replace("/", "/./"), f"http://chats.test{owned}",
        owned.upper(), owned.title(), f"{owned}?", f"{owned}#", f"{owned}%3fpeek=true", f"{owned};/", f"{owned}%00",
        *("/".join(["", *parts[1:index], "..", *parts[index - 1 :]]) for index in range(2, len(parts))),
    ]  # fmt: skip
    async with world.undone(row.service):
        for path in paths:
            answer = await world.play(row, other(world, row), target=path)
            assert answer.status in REFUSED or (answer.status == 303 and row.is_page), (path, answer.text)
            assert world.revealed(answer, row) <= {OTHER}, (path, answer.text)
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("list_path", LISTS)
async def test_no_filter_shows_more_than_ones_own_data(world: World, list_path: str) -> None:
    path = list_path.replace("{own}", "{conversation_id}")
    row = row_of(path)
    own = path.replace("{conversation_id}", world.owners["others_conversation_id"])
    known = {**world.owners, "id": world.owners["conversation_id"], "earlier_than": "1"}
    async with world.undone(row.service):
        plain = await world.play(row, other(world, row), target=f"{own}?peek=true")
        assert world.revealed(plain, row) <= {OTHER}
        for name in LISTS[list_path].split():
            own_value = OTHER if name == "user_id" else "x"
            for query in (
                f"{name}={known[name]}", f"{name}={own_value}&{name}={known[name]}",
                f"{name}={known[name]}&{name}={own_value}",
                f"{name}[]={known[name]}", f"{name}=%00{known[name]}", f"{name}=*", f"{name}=%25", f"{name}=",
                f"{name}={known[name]}%27%20or%20%271%27=%271", f"filter[{name}]={known[name]}", f"{name}=null",
            ):  # fmt: skip
                answer = await world.play(row, other(world, row), target=f"{own}?peek=true&{query}")
                assert answer.status in {200, 422}, (query, answer.text)
                assert world.revealed(answer, row) <= {OTHER}, (query, answer.text)
                if name != "order_id" and answer.status == 200:
                    assert without_ids(answer) == without_ids(plain), query


@pytest.mark.parametrize(
    "header",
    ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-HTTP-Method-Override",
     "X-Forwarded-User", "X-Remote-User", "X-User-Id", "X-User", "X-Role", "X-Original-Method", "Forwarded"],
)  # fmt: skip
async def test_no_header_changes_who_the_caller_is(world: World, header: str) -> None:
    thread = filled("/api/v1/conversations/{conversation_id}", world.owners)
    for path in ("/api/v1/conversations", "/api/v1/conversations/{conversation_id}", "/dashboard/messages/"):
        row = row_of(path)
        async with world.undone(row.service):
            credential = other(world, row)
            plain = await world.play(row, credential)
            for value in (thread, OWNER, "admin", "DELETE"):
                more = Credential(header, {**credential.headers, header: value}, credential.csrf)
                assert without_ids(await world.play(row, more)) == without_ids(plain), (path, value)


@pytest.mark.parametrize(
    ("path", "owners", "others"),
    [
        ("/api/v1/unread", '"unread":1', '"unread":0'),
        ("/api/v1/notifications/unread", '"unread":2', '"unread":0'),
        ("/dashboard/messages/", "<title>(1) Your", "<title>Your"),
    ],
)
async def test_counts_include_only_ones_own_data(world: World, path: str, owners: str, others: str) -> None:
    row = row_of(path)
    for caller, count in (("owner", owners), ("other", others)):
        async with world.undone(row.service):
            for credential in world.wallet.of(caller, row):
                assert count in (await world.play(row, credential)).body


async def test_a_cursor_is_valid_only_for_its_list_and_its_caller(world: World) -> None:
    async def cursor(path: str, caller: str) -> str:
        credential = next(world.wallet.of(caller, row_of(path)))
        answer = await world.play(row_of(path), credential, target=f"{filled(path, world.owners)}?limit=1")
        return str(answer.json()["next_cursor"])

    own_list, inbox = "/api/v1/conversations", "/api/v1/admin/conversations"
    thread = "/api/v1/conversations/{conversation_id}/messages"
    notifications, emails = "/api/v1/notifications", "/api/v1/notifications/emails"
    cursors = [await cursor(path, "owner") for path in (own_list, thread, "/api/v1/orders", notifications)]
    cursors += [await cursor(path, "admin") for path in (inbox, f"{inbox}/{{conversation_id}}/messages", emails)]
    for cursor_value in cursors:
        for path in (own_list, "/api/v1/orders", "/dashboard/messages/", notifications):
            row = row_of(path)
            answer = await world.play(row, other(world, row), target=f"{path}?cursor={cursor_value}")
            assert answer.status == 422, (path, answer.text)
            assert world.revealed(answer, row) <= {OTHER}, (path, answer.text)


@pytest.mark.parametrize(("user_id", "status"), [(OTHER, 200), (OWNER, 422), (None, 422)])
async def test_a_handmade_cursor_shows_only_ones_own_data(world: World, user_id: str | None, status: int) -> None:
    row = row_of("/api/v1/conversations")
    filters = ("activity", "customer", (), None, user_id, None, None)
    cursor = encode_cursor(filters, ["9999-01-01T00:00:00+00:00", world.owners["conversation_id"]])
    answer = await world.play(row, other(world, row), target=f"{row.path}?cursor={cursor}")
    assert answer.status == status, answer.text
    assert world.revealed(answer, row) <= {OTHER}


@pytest.mark.parametrize("prefix", ["/chats-static", "/docs/static"])
@pytest.mark.parametrize(
    "path",
    ["/../pages.py", "/..%2fpages.py", "/%2e%2e/pages.py", "/..%5cpages.py", "/%252e%252e/pages.py", "//etc/passwd",
     "/%2fetc/passwd", "/", "", "/.", "/..", "/%00", "/page.js%00.py", "/page.js/../../pages.py",
     "/../templates/base.html", "/x/../../../../../../../../etc/passwd", "/..;/pages.py", "/%c0%ae%c0%ae/pages.py"],
)  # fmt: skip
async def test_static_files_are_served_only_from_their_folder(world: World, prefix: str, path: str) -> None:
    answer = await world.play(row_of("/healthz"), Credential("nothing"), target=prefix + path)
    assert answer.status in {404, 405}, answer.text
    assert "import" not in answer.body
    assert "root:" not in answer.body
