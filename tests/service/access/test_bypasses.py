"""What the table does not think of: ways around a route, an id, a filter or a cursor."""

import re
from collections.abc import Iterator
from typing import Any

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
    """Return how callers come to a path."""
    return next(row for row in ROWS if (row.method, row.path) == (method, path))


def other(world: World, row: Row) -> Credential:
    """Return how a customer who is not the owner comes to a route."""
    return next(world.wallet.of("other", row))


def unnamed(answer: Answer) -> tuple[int, str]:
    return answer.status, UUIDS.sub("-", re.sub(r"x-request-id: .*", "", answer.text))


def test_a_route_that_no_row_tells_of_is_noticed() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/told")(lambda: None)
    before = routes_of(app)
    app.post("/told")(lambda: None)
    app.get("/hidden", include_in_schema=False)(lambda: None)
    app.websocket("/socket")(lambda: None)
    app.mount("/below", FastAPI())
    assert routes_of(app) - before == {"POST /told", "GET /hidden", "ANY /socket", "GET /below{file}"}


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
async def test_other_methods_tell_and_change_nothing(world: World, path: str) -> None:
    rows = [row for row in ROWS if row.path == path]
    known = {row.method for row in rows}
    known |= {"HEAD"} if "GET" in known and path != "/api/v1/stream" else set()  # by the routes of GET: test_matrix
    credential = other(world, rows[0])
    async with world.undone(rows[0].service):
        for method in METHODS:
            if method in known:
                continue
            answer = await world.play(rows[0], credential, method=method)
            assert answer.status in REFUSED, (method, answer.text)
            assert world.told(answer, rows[0]) <= {OTHER}, (method, answer.text)
            nothing = await world.play(rows[0], credential, method=method, missing=True)
            assert unnamed(answer) == unnamed(nothing), method
        assert await world.state(rows[0].service) == world.before[rows[0].service]


def written(identity: str) -> Iterator[str]:
    """Write an id in every way that something on the way might read as the same."""
    plain = identity.replace("-", "")
    yield from (identity.upper(), plain, plain.upper(), f"{{{identity}}}", f"%7B{identity}%7D", f"urn:uuid:{identity}")
    yield from (f"%{ord(identity[0]):x}{identity[1:]}", f"%25{ord(identity[0]):x}{identity[1:]}")
    yield from (f"{identity}%00", f"{identity}%20", f"%20{identity}", f"{identity};x=1", f"{identity},{UNKNOWN_ID}")
    yield from (f"{identity}.json", f"{identity}%0d%0aX-Y:z", f"%EF%BC%90{identity[1:]}", f"{identity}*", "%2a", "*")


@pytest.mark.parametrize("row", CUSTOMERS_OF_ONE, ids=str)
async def test_an_id_is_nobodys_key_however_it_is_written(world: World, row: Row) -> None:
    [name] = {*re.findall(r"{(\w+)}", row.path)}
    credential = other(world, row)
    async with world.undone(row.service):
        for hers, nobodys in zip(written(world.owners[name]), written(UNKNOWN_ID), strict=True):
            answer = await world.play(row, credential, target=row.target.replace(f"{{{name}}}", hers))
            nothing = await world.play(row, credential, target=row.target.replace(f"{{{name}}}", nobodys))
            assert answer.status == nothing.status, (hers, answer.text)
            assert answer.status in REFUSED, (hers, answer.text)
            assert world.told(answer, row) <= {OTHER}, (hers, answer.text)
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("row", CUSTOMERS_OF_ONE, ids=str)
async def test_no_path_leads_round_a_routes_rules(world: World, row: Row) -> None:
    hers = filled(row.path, world.owners)
    own = row.path.replace("{conversation_id}", world.owners["others_conversation_id"])
    parts = hers.split("/")
    paths = [
        f"/{hers}", f"/.{hers}", f"/x/..{hers}", f"/%2e%2e{hers}", f"{hers}//", f"{hers}/.", f"{hers}/..", f"{hers}%2f",
        f"{own}/..{hers}", f"{own}/../../../../..{hers}", f"{own}%2f..%2f..{hers}", hers.replace("/", "//"),
        hers.replace("/", "\\"), hers.replace("/", "%2f"), hers.replace("/", "/./"), f"http://chats.test{hers}",
        hers.upper(), hers.title(), f"{hers}?", f"{hers}#", f"{hers}%3fpeek=true", f"{hers};/", f"{hers}%00",
        *("/".join(["", *parts[1:index], "..", *parts[index - 1 :]]) for index in range(2, len(parts))),
    ]  # fmt: skip
    async with world.undone(row.service):
        for path in paths:
            answer = await world.play(row, other(world, row), target=path)
            assert answer.status in REFUSED or (answer.status == 303 and row.is_page), (path, answer.text)
            assert world.told(answer, row) <= {OTHER}, (path, answer.text)
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("list_path", LISTS)
async def test_no_filter_widens_what_is_ones_own(world: World, list_path: str) -> None:
    path = list_path.replace("{own}", "{conversation_id}")
    row = row_of(path)
    own = path.replace("{conversation_id}", world.owners["others_conversation_id"])
    hers = {**world.owners, "id": world.owners["conversation_id"], "earlier_than": "1"}
    async with world.undone(row.service):
        plain = await world.play(row, other(world, row), target=f"{own}?peek=true")
        assert world.told(plain, row) <= {OTHER}
        for name in LISTS[list_path].split():
            mine = OTHER if name == "user_id" else "x"
            for query in (
                f"{name}={hers[name]}", f"{name}={mine}&{name}={hers[name]}", f"{name}={hers[name]}&{name}={mine}",
                f"{name}[]={hers[name]}", f"{name}=%00{hers[name]}", f"{name}=*", f"{name}=%25", f"{name}=",
                f"{name}={hers[name]}%27%20or%20%271%27=%271", f"filter[{name}]={hers[name]}", f"{name}=null",
            ):  # fmt: skip
                answer = await world.play(row, other(world, row), target=f"{own}?peek=true&{query}")
                assert answer.status in {200, 422}, (query, answer.text)
                assert world.told(answer, row) <= {OTHER}, (query, answer.text)
                if name != "order_id" and answer.status == 200:
                    assert unnamed(answer) == unnamed(plain), query


@pytest.mark.parametrize(
    "header",
    ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-HTTP-Method-Override",
     "X-Forwarded-User", "X-Remote-User", "X-User-Id", "X-User", "X-Role", "X-Original-Method", "Forwarded"],
)  # fmt: skip
async def test_no_header_makes_somebody_else_of_a_caller(world: World, header: str) -> None:
    thread = filled("/api/v1/conversations/{conversation_id}", world.owners)
    for path in ("/api/v1/conversations", "/api/v1/conversations/{conversation_id}", "/dashboard/messages/"):
        row = row_of(path)
        async with world.undone(row.service):
            credential = other(world, row)
            plain = await world.play(row, credential)
            for value in (thread, OWNER, "admin", "DELETE"):
                more = Credential(header, {**credential.headers, header: value}, credential.csrf)
                assert unnamed(await world.play(row, more)) == unnamed(plain), (path, value)


@pytest.mark.parametrize(
    ("path", "owners", "others"),
    [
        ("/api/v1/unread", '"unread":1', '"unread":0'),
        ("/api/v1/notifications/unread", '"unread":2', '"unread":0'),
        ("/dashboard/messages/", "<title>(1) Your", "<title>Your"),
    ],
)
async def test_a_number_counts_nothing_of_others(world: World, path: str, owners: str, others: str) -> None:
    row = row_of(path)
    for caller, shown in (("owner", owners), ("other", others)):
        async with world.undone(row.service):
            for credential in world.wallet.of(caller, row):
                assert shown in (await world.play(row, credential)).body


async def test_a_cursor_is_of_its_list_and_of_whoever_it_was_made_for(world: World) -> None:
    async def cursor(path: str, caller: str) -> str:
        credential = next(world.wallet.of(caller, row_of(path)))
        answer = await world.play(row_of(path), credential, target=f"{filled(path, world.owners)}?limit=1")
        return str(answer.json()["next_cursor"])

    talks, admins = "/api/v1/conversations", "/api/v1/admin/conversations"
    thread = "/api/v1/conversations/{conversation_id}/messages"
    records, mails = "/api/v1/notifications", "/api/v1/notifications/emails"
    made = [await cursor(path, "owner") for path in (talks, thread, "/api/v1/orders", records)]
    made += [await cursor(path, "admin") for path in (admins, f"{admins}/{{conversation_id}}/messages", mails)]
    for value in made:
        for path in (talks, "/api/v1/orders", "/dashboard/messages/", records):
            row = row_of(path)
            answer = await world.play(row, other(world, row), target=f"{path}?cursor={value}")
            assert answer.status == 422, (path, answer.text)
            assert world.told(answer, row) <= {OTHER}, (path, answer.text)


@pytest.mark.parametrize(("whose", "status"), [(OTHER, 200), (OWNER, 422), (None, 422)])
async def test_a_cursor_that_is_made_by_hand_shows_only_what_is_ones_own(
    world: World, whose: str | None, status: int
) -> None:
    row = row_of("/api/v1/conversations")
    bound: list[Any] = ["activity", "customer", [], None, whose, None, None]
    cursor = encode_cursor(bound, ["9999-01-01T00:00:00+00:00", world.owners["conversation_id"]])
    answer = await world.play(row, other(world, row), target=f"{row.path}?cursor={cursor}")
    assert answer.status == status, answer.text
    assert world.told(answer, row) <= {OTHER}


@pytest.mark.parametrize("prefix", ["/chats-static", "/docs/static"])
@pytest.mark.parametrize(
    "path",
    ["/../pages.py", "/..%2fpages.py", "/%2e%2e/pages.py", "/..%5cpages.py", "/%252e%252e/pages.py", "//etc/passwd",
     "/%2fetc/passwd", "/", "", "/.", "/..", "/%00", "/page.js%00.py", "/page.js/../../pages.py",
     "/../templates/base.html", "/x/../../../../../../../../etc/passwd", "/..;/pages.py", "/%c0%ae%c0%ae/pages.py"],
)  # fmt: skip
async def test_files_are_served_from_their_folder_only(world: World, prefix: str, path: str) -> None:
    answer = await world.play(row_of("/healthz"), Credential("nothing"), target=prefix + path)
    assert answer.status in {404, 405}, answer.text
    assert "import" not in answer.body
    assert "root:" not in answer.body
