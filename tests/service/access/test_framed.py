"""Below `/messenger/` a customer gets what the table says of the same route, by the frame's own cookie only."""

import re
from dataclasses import replace

import pytest

from tests.service.access.credentials import Credential, foreign
from tests.service.access.table import ROWS, Row
from tests.service.access.test_matrix import OWN
from tests.service.access.world import World, filled

_ID = r"{\w+_id}"
_FRAMED = re.compile(
    rf"/dashboard/messages(/(new/|{_ID}/)?)"
    rf"|(/api/v1/(stream|attachments(/{_ID}/thumbnail)?|conversations/{_ID}/(messages|read)))"
    rf"|(/attachments/{_ID}(/picture)?|/session/renew)"
)
FRAMED = [row for row in ROWS if _FRAMED.fullmatch(row.path) and row.path != "/dashboard/messages"]
# Below it, these two are the list and the beginning of a session.
OTHERS = [
    row for row in ROWS if row not in FRAMED and row.path not in {"/", "/session"} and "/messenger" not in row.path
]


def below(target: str) -> str:
    """Return the path of a route in the frame."""
    return "/messenger" + target.removeprefix("/dashboard/messages")


def in_frame(credential: Credential) -> Credential:
    """Return a credential whose cookie is the frame's."""
    cookie = credential.headers["Cookie"].replace("chats=", "chats-messenger=")
    return replace(credential, headers={**credential.headers, "Cookie": cookie})


def cookie_of(world: World, caller: str, row: Row) -> Credential:
    [cookie] = [credential for credential in world.wallet.of(caller, row) if credential.csrf]
    return cookie


@pytest.mark.parametrize("row", FRAMED, ids=str)
async def test_a_customers_cookie_of_the_frame_is_the_only_credential(world: World, row: Row) -> None:
    target = below(filled(row.target, world.owners))
    for caller in ("owner", "other", "admin"):
        framed = in_frame(cookie_of(world, caller, row))
        async with world.undone(row.service):
            answer = await world.play(row, framed, target=target)
        assert answer.status == (403 if caller == "admin" else row.statuses[caller]), (caller, answer.text)
        assert world.revealed(answer, row) <= (set() if caller == "admin" else OWN[caller]), (caller, answer.text)
        async with world.undone(row.service):
            for credential in world.wallet.of(caller, row):
                answer = await world.play(row, credential, target=target)
                assert answer.status == 401, (credential.name, answer.text)
                assert world.revealed(answer, row) == set()
            assert (await world.play(row, framed)).status == 401, "the frame's cookie elsewhere"
            assert await world.state(row.service) == world.before[row.service]


@pytest.mark.parametrize("row", [row for row in FRAMED if not row.is_safe], ids=str)
async def test_the_frames_cookie_changes_nothing_unless_our_own_page_sends_it(world: World, row: Row) -> None:
    target = below(filled(row.target, world.owners))
    async with world.undone(row.service):
        for credential in foreign(in_frame(cookie_of(world, "owner", row))):
            answer = await world.play(row, credential, target=target)
            assert answer.status == 403, (credential.name, answer.text)
            assert world.revealed(answer, row) == set()
        assert await world.state(row.service) == world.before[row.service]


async def test_nothing_else_is_in_the_frame(world: World) -> None:
    for service in world.apps:
        async with world.undone(service):
            for row in (row for row in OTHERS if row.service == service):
                framed = in_frame(cookie_of(world, "owner", row))
                target = "/messenger" + re.sub(r"{(\w+)}", lambda name: world.owners.get(name[1], "x"), row.target)
                answer = await world.play(replace(row, sent=None), framed, target=target)
                assert answer.status == 404, (row, answer.text)
