"""Who may do what: every route of both services, for every kind of caller, as the table says it."""

import re

import pytest
from fastapi.routing import APIRoute

from tests.service.access.asgi import Answer
from tests.service.access.credentials import ADMIN, OTHER, OWNER, foreign
from tests.service.access.table import CALLERS, ROWS, Row, documented, routes_of
from tests.service.access.world import UUIDS, World

OWN = {"owner": {OWNER}, "other": {OTHER}, "admin": {ADMIN}}
ALL_SEEING = {"admin", "store", "feed"}  # where they are let in at all
REFUSED = {401, 403, 404}

LET_IN_BY_CREDENTIAL = [row for row in ROWS if row.statuses["nobody"] == 401 or row.path == "/session/end"]
UNSAFE = [row for row in ROWS if not row.is_safe and row.path != "/session"]  # of which test_sessions.py tells more


def test_every_route_has_a_row_and_every_row_a_route(world: World) -> None:
    for service, app in world.apps.items():
        assert routes_of(app) ^ {row.route for row in ROWS if row.service == service} == set()
        assert documented(app) <= routes_of(app)


def test_whoever_may_get_may_ask_for_the_head_by_the_same_route(world: World) -> None:
    for app in world.apps.values():
        routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
        gets, heads = (
            {route.path: route.dependant for route in routes if method in (route.methods or ())}
            for method in ("GET", "HEAD")
        )
        assert {path for path in gets if gets[path] is not heads.get(path)} <= {"/api/v1/stream"}
        assert heads.keys() <= gets.keys()


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_each_caller_gets_what_the_table_says_and_nothing_of_others(world: World, row: Row) -> None:
    before = world.before[row.service]
    for caller in CALLERS:
        for credential in world.wallet.of(caller, row):
            async with world.undone(row.service):
                answer = await world.play(row, credential)
                after = await world.state(row.service)
            seen = (caller, credential.name, answer.text)
            assert answer.status == row.statuses[caller], seen
            if caller not in ALL_SEEING or answer.status in REFUSED:
                assert world.told(answer, row) <= OWN.get(caller, set()), seen
            if answer.status >= 400:
                assert after == before, seen
            elif caller not in {"owner", *ALL_SEEING}:
                assert world.of_owner(after) == world.of_owner(before), seen


@pytest.mark.parametrize("row", [row for row in ROWS if row.named], ids=str)
async def test_what_is_not_ones_own_is_as_what_is_not_there(world: World, row: Row) -> None:
    for caller in CALLERS:
        if caller == "owner" or (caller in ALL_SEEING and row.statuses[caller] not in REFUSED):
            continue
        for credential in world.wallet.of(caller, row):
            async with world.undone(row.service):
                answer = await world.play(row, credential)
            async with world.undone(row.service):
                nothing = await world.play(row, credential, missing=True)
            assert nameless(answer, row) == nameless(nothing, row), (caller, credential.name)


@pytest.mark.parametrize("row", LET_IN_BY_CREDENTIAL, ids=str)
async def test_what_is_no_credential_is_as_none(world: World, row: Row) -> None:
    async with world.undone(row.service):
        for credential in world.wallet.refused(row):
            answer = await world.play(row, credential)
            seen = (credential.name, answer.text)
            assert answer.status == row.statuses["nobody"], seen
            assert world.told(answer, row) == set(), seen
            assert answer.status != 401 or answer.header("www-authenticate") == "Bearer"
        assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("row", UNSAFE, ids=str)
async def test_a_cookie_changes_nothing_unless_a_page_of_ours_sends_it(world: World, row: Row) -> None:
    async with world.undone(row.service):
        for caller in ("owner", "admin"):
            [cookie] = [one for one in world.wallet.of(caller, row) if one.csrf]
            for credential in foreign(cookie) if row.statuses[caller] < 400 else ():
                answer = await world.play(row, credential)
                seen = (caller, credential.name, answer.text)
                assert answer.status == 403, seen
                assert world.told(answer, row) == set(), seen
        assert await world.state(row.service) == world.before[row.service]


def nameless(answer: Answer, row: Row) -> tuple[int, str]:
    """Return an answer without what is another one each time, and without the ids that were asked about."""
    text = re.sub(r"x-request-id: .*|retry: \d+", "", UUIDS.sub("-", answer.text))
    return answer.status, re.sub(rf"{OWNER}(-order)?|nobody", "-", text) if row.named & {
        "user_id",
        "order_id",
    } else text
