"""What admins do with held emails, by the API and on the command line."""

import asyncio

import httpx2
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from tests.service.conftest import As
from tests.service.inbound.rig import Rig


@pytest.fixture
async def held(rig: Rig) -> Rig:
    await rig.send_email()
    await rig.deliver(rig.reply("From my other address.", From="Anna <anna@work.test>"))
    assert await rig.states() == [("held", "other-sender")]
    return rig


async def test_an_admin_posts_a_held_email(held: Rig, notifications_api: httpx2.AsyncClient, acting_as: As) -> None:
    admin, path = acting_as("sam", "admin"), "/api/v1/notifications/inbound"
    [item] = (await notifications_api.get(path, params={"state": "held"}, headers=admin)).json()["items"]
    assert (item["from_address"], item["user_id"], item["original"]) == ("anna@work.test", "anna", True)
    original = await notifications_api.get(f"{path}/{item['id']}/original", headers=admin)
    assert (original.headers["content-type"], b"From my other address." in original.content) == ("message/rfc822", True)
    assert (await notifications_api.post(f"{path}/{item['id']}/post", headers=admin)).status_code == 204
    await held.post()
    [message] = await held.messages()
    assert message["body"] == "From my other address."
    again = await notifications_api.post(f"{path}/{item['id']}/post", headers=admin)
    assert (again.status_code, again.json()["code"]) == (409, "inbound-not-waiting")


async def test_an_admin_discards_a_held_email(held: Rig, notifications_api: httpx2.AsyncClient, acting_as: As) -> None:
    [row] = await held.rows()
    path = f"/api/v1/notifications/inbound/{row.id}/discard"
    assert (await notifications_api.post(path, headers=acting_as("sam", "admin"))).status_code == 204
    assert await held.states() == [("ignored", "discarded")]
    assert await held.post() == 0


async def test_an_email_without_its_original_is_not_posted(
    held: Rig, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    [row] = await held.rows()
    await held.run("update inbound_emails set original = null")
    path = f"/api/v1/notifications/inbound/{row.id}"
    admin = acting_as("sam", "admin")
    assert (await notifications_api.post(f"{path}/post", headers=admin)).status_code == 409
    assert (await notifications_api.get(f"{path}/original", headers=admin)).status_code == 404


async def test_the_command_line_shows_and_discards(
    held: Rig, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [row] = await held.rows()
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", databases["notifications"])

    def run(*arguments: str) -> str:
        return CliRunner().invoke(app, ["inbound", *arguments], catch_exceptions=False).output

    listed = await asyncio.to_thread(run, "list", "--state", "held")
    assert str(row.id) in listed
    assert "a…@work.test" in listed
    assert "From my other address." in await asyncio.to_thread(run, "show", str(row.id))
    await asyncio.to_thread(run, "discard", str(row.id))
    assert await held.states() == [("ignored", "discarded")]
