"""Schemathesis on both APIs: no request causes a server error, and every response matches the document.

`SCHEMATHESIS_EXAMPLES=500 .venv/bin/python -m pytest tests/service/api/test_schemathesis.py` runs long, with a new seed
each time, which is printed with the findings. Without it a run is short and deterministic.
"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from services.notifications.app import create_app
from services.notifications.models import Email
from services.notifications.settings import ApiSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.conftest import SECRET, As, serving
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.event_factory import email_settings, posted, receive
from tests.service.helpers.live_api import Live

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
FOR_LONG = ["--max-examples", str(EXAMPLES)]
ALWAYS_THE_SAME = ["--max-examples", "2", "--generation-deterministic"]
# It is 503 without the notifications service: tests/service/privacy.
WITHOUT_EXPORT = ["--exclude-path", "/api/v1/store/users/{user_id}/export"]
# Providers call it, with a secret of their own. GET matches the route of an email with an id.
WITHOUT_PROVIDERS = ["--exclude-path", "/api/v1/notifications/inbound/mime"]
# Callers without access are rejected before boundary values matter.
WITHOUT_BOUNDARIES = [] if EXAMPLES else ["--phases", "examples,fuzzing,stateful"]
REFUSED = pytest.mark.skipif(
    "EVERY_CASE" not in os.environ, reason="tests/service/access covers these callers; set EVERY_CASE=1"
)


def tagged(*tags: str) -> list[str]:
    """Return the options for the operations with these tags."""
    return [option for tag in tags for option in ("--include-tag", tag)]


pytestmark = pytest.mark.timeout(240 + 10 * EXAMPLES)


@pytest.fixture
def people(acting_as: As, tmp_path: Path) -> Path:
    """Write all callers' headers in schemathesis's format."""
    headers = {
        "anna": acting_as("anna"),
        "ben": acting_as("ben"),
        "sam": acting_as("sam", "admin"),
        "shop": acting_as("shop", "store"),
        "nobody": {"Accept": "*/*"},
    }
    auth = [
        {
            "name": name,
            "fixedHeaders": [{"name": header, "value": value} for header, value in headers_of_caller.items()],
        }
        for name, headers_of_caller in headers.items()
    ]
    written = tmp_path / "people.json"
    written.write_text(json.dumps({"auth": auth}))
    return written


async def run_schemathesis(document: str, caller: str, people: Path, *options: str) -> None:
    """Run schemathesis on a document as one of the callers; fail with its findings."""
    how = [*options, *(FOR_LONG if EXAMPLES else ALWAYS_THE_SAME)]
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run", document),
        *("--auth-wfc-user", caller, "--no-color", *how),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"SCHEMATHESIS_PEOPLE": str(people)},
    )
    try:
        with capture_logs():  # a line for each of thousands of requests
            output, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode != 0:
        pytest.fail("\n".join(line[:1000] for line in output.decode().splitlines()))


@pytest.mark.parametrize(
    ("who", "options"),
    [
        # Of other users' data, these callers only get 403 or 404; tests/service/access covers that.
        ("anna", tagged("Conversations")),
        ("sam", tagged("Admin conversations", "Desk", "Reports and audit")),
        ("shop", [*tagged("Users and orders", "Webhooks"), *WITHOUT_EXPORT]),
        pytest.param("nobody", WITHOUT_BOUNDARIES, marks=REFUSED),
    ],
    ids=["customer", "admin", "store", "nobody"],
)
async def test_the_conversations_api_matches_its_document(
    live: Live, shop: Caller, sam: Caller, anna: Caller, people: Path, who: str, options: list[str]
) -> None:
    await shop.call("PUT", "/orders/A-1007", ORDER)
    conversation = await anna.open(body="Where is it?")
    await sam.post(conversation["id"], "On its way.")
    await run_schemathesis(f"{live.origin}/openapi.json", who, people, *options)


@pytest.mark.parametrize(
    ("who", "options"),
    [
        ("anna", [*tagged("Notifications"), "--exclude-path", "/api/v1/notifications/preferences"]),
        ("sam", [*tagged("Notifications", "Emails"), *WITHOUT_PROVIDERS]),
        pytest.param("shop", WITHOUT_BOUNDARIES, marks=REFUSED),
        pytest.param("nobody", WITHOUT_BOUNDARIES, marks=REFUSED),
    ],
    ids=["customer", "admin", "store", "nobody"],
)
async def test_the_notifications_api_matches_its_document(
    notifications: SessionFactory, databases: dict[str, str], people: Path, who: str, options: list[str]
) -> None:
    await receive(notifications, email_settings("postgresql://unused"), posted(uuid4(), 1), posted(uuid4(), 1))
    async with transaction(notifications) as session:
        over = {"state": "failed", "reason": "rejected", "finished_at": datetime.now(UTC)}
        await session.execute(update(Email).values(over))
    settings = ApiSettings(notifications_database_url=databases["notifications"], auth_secret=[SECRET])
    async with serving(create_app(settings)) as port:
        await run_schemathesis(f"http://127.0.0.1:{port}/api/v1/notifications/openapi.json", who, people, *options)
