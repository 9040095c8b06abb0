"""Every route of both services gives every kind of caller what the table says."""

import re

import pytest
from fastapi.routing import APIRoute

from tests.service.access.asgi import Answer
from tests.service.access.credentials import ADMIN, OTHER, OWNER, foreign
from tests.service.access.table import CALLERS, ROWS, Row, documented, routes_of
from tests.service.access.world import UUIDS, World

OWN = {"owner": {OWNER}, "other": {OTHER}, "admin": {ADMIN}}
ALL_SEEING = {"admin", "store", "feed"}  # on the routes that admit them
REFUSED = {401, 403, 404}

PROTECTED = [row for row in ROWS if row.statuses["nobody"] == 401 or row.path == "/session/end"]
# Those that begin a session: identity/test_sessions.py, web/test_messenger.py
UNSAFE = [row for row in ROWS if not row.is_safe and row.path not in {"/session", "/messenger/session"}]


def test_every_route_has_a_row_and_every_row_a_route(world: World) -> None:
    for service, app in world.apps.items():
        assert routes_of(app) ^ {row.route for row in ROWS if row.service == service} == set()
        assert documented(app) <= routes_of(app)


def test_head_is_allowed_wherever_get_is_by_the_same_dependencies(world: World) -> None:
    for app in world.apps.values():
        routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
        gets, heads = (
            {route.path: route.dependant for route in routes if method in (route.methods or ())}
            for method in ("GET", "HEAD")
        )
        assert {path for path in gets if gets[path] is not heads.get(path)} <= {"/api/v1/stream"}
        assert heads.keys() <= gets.keys()


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_each_caller_gets_the_tables_status_and_nothing_of_others(world: World, row: Row) -> None:
    before = world.before[row.service]
    for caller in CALLERS:
        for credential in world.wallet.of(caller, row):
            async with world.undone(row.service):
                answer = await world.play(row, credential)
                after = await world.state(row.service)
            context = (caller, credential.name, answer.text)
            assert answer.status == row.statuses[caller], context
            if caller not in ALL_SEEING or answer.status in REFUSED:
                assert world.revealed(answer, row) <= OWN.get(caller, set()), context
            if answer.status >= 400:
                assert after == before, context
            elif caller not in {"owner", *ALL_SEEING}:
                assert world.of_owner(after) == world.of_owner(before), context


@pytest.mark.parametrize("row", [row for row in ROWS if row.named], ids=str)
async def test_data_of_others_is_indistinguishable_from_missing_data(world: World, row: Row) -> None:
    for caller in CALLERS:
        if caller == "owner" or (caller in ALL_SEEING and row.statuses[caller] not in REFUSED):
            continue
        for credential in world.wallet.of(caller, row):
            async with world.undone(row.service):
                answer = await world.play(row, credential)
            async with world.undone(row.service):
                nothing = await world.play(row, credential, missing=True)
            assert nameless(answer, row) == nameless(nothing, row), (caller, credential.name)


@pytest.mark.parametrize("row", PROTECTED, ids=str)
async def test_an_invalid_credential_is_treated_as_none(world: World, row: Row) -> None:
    async with world.undone(row.service):
        for credential in world.wallet.refused(row):
            answer = await world.play(row, credential)
            context = (credential.name, answer.text)
            assert answer.status == row.statuses["nobody"], context
            assert world.revealed(answer, row) == set(), context
            assert answer.status != 401 or answer.header("www-authenticate") == "Bearer"
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("row", UNSAFE, ids=str)
async def test_a_cookie_changes_nothing_unless_the_products_own_page_sends_it(world: World, row: Row) -> None:
    async with world.undone(row.service):
        for caller in ("owner", "admin"):
            [cookie] = [credential for credential in world.wallet.of(caller, row) if credential.csrf]
            for credential in foreign(cookie) if row.statuses[caller] < 400 else ():
                answer = await world.play(row, credential)
                context = (caller, credential.name, answer.text)
                assert answer.status == 403, context
                assert world.revealed(answer, row) == set(), context
        assert await world.state(row.service) == world.before[row.service]


def nameless(answer: Answer, row: Row) -> tuple[int, str]:
    """Return a response without random values and without the requested ids."""
    text = re.sub(r"x-request-id: .*|retry: \d+", "", UUIDS.sub("-", answer.text))
    return answer.status, re.sub(rf"{OWNER}(-order)?|nobody", "-", text) if row.named & {
        "user_id",
        "order_id",
    } else text
