"""Schemathesis on both APIs: no request is a fault of ours, and no answer is other than the document says.

`SCHEMATHESIS_EXAMPLES=500 .venv/bin/python -m pytest tests/service/api/test_schemathesis.py` looks for long, in another
place each time (the seed is printed with what it finds); without it a run is short, and always the same one.
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
from shared.database import SessionFactory, transaction
from tests.service.conftest import SECRET, As, serving
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.event_factory import email_settings, posted, receive
from tests.service.helpers.live_api import Live

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
FOR_LONG = ["--max-examples", str(EXAMPLES)]
ALWAYS_THE_SAME = ["--max-examples", "5", "--generation-deterministic"]
# It has no end: each call would last as long as its timeout. What it tells whom is tested in test_live*.py, and that
# nobody gets one without a token here as well.
WITHOUT_STREAM = ["--exclude-path", "/api/v1/stream"]
# Who is let in nowhere is refused before anybody looks at the many borders of each value.
WITHOUT_BORDERS = [] if EXAMPLES else ["--phases", "examples,fuzzing,stateful"]

pytestmark = pytest.mark.timeout(240 + 10 * EXAMPLES)


@pytest.fixture
def people(acting_as: As, tmp_path: Path) -> Path:
    """Everybody's headers, as schemathesis reads them."""
    headers = {
        "anna": acting_as("anna"),
        "ben": acting_as("ben"),
        "sam": acting_as("sam", "admin"),
        "shop": acting_as("shop", "store"),
        "nobody": {"Accept": "*/*"},
    }
    listed = [
        {"name": who, "fixedHeaders": [{"name": name, "value": value} for name, value in said.items()]}
        for who, said in headers.items()
    ]
    written = tmp_path / "people.json"
    written.write_text(json.dumps({"auth": listed}))
    return written


async def hold_to(document: str, who: str, people: Path, *options: str) -> None:
    """Let schemathesis call all that the document lists as one of these people; fail with what it finds."""
    how = [*options, *(FOR_LONG if EXAMPLES else ALWAYS_THE_SAME)]
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run", document),
        *("--auth-wfc-user", who, "--no-color", *how),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"SCHEMATHESIS_PEOPLE": str(people)},
    )
    try:
        with capture_logs():  # a line for each of thousands of requests
            said, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode != 0:
        pytest.fail("\n".join(line[:1000] for line in said.decode().splitlines()))


@pytest.mark.parametrize(
    ("who", "options"),
    [
        # Of what is another's, each finds out no more than 403; tests/service/access walks through all of that.
        ("anna", ["--include-tag", "Customer", *WITHOUT_STREAM]),
        ("sam", ["--include-tag", "Admin", *WITHOUT_STREAM]),
        ("shop", ["--include-tag", "Store"]),
        ("nobody", WITHOUT_BORDERS),
    ],
    ids=["customer", "admin", "store", "nobody"],
)
async def test_the_conversations_api_keeps_to_its_document(
    live: Live, shop: Caller, sam: Caller, anna: Caller, people: Path, who: str, options: list[str]
) -> None:
    await shop.call("PUT", "/orders/A-1007", ORDER)
    conversation = await anna.open(body="Where is it?")
    await sam.post(conversation["id"], "On its way.")
    await hold_to(f"{live.origin}/openapi.json", who, people, *options)


@pytest.mark.parametrize(
    ("who", "options"),
    [
        ("anna", ["--include-tag", "Customer"]),
        ("sam", ["--include-tag", "Admin"]),
        ("shop", WITHOUT_BORDERS),
        ("nobody", WITHOUT_BORDERS),
    ],
    ids=["customer", "admin", "store", "nobody"],
)
async def test_the_notifications_api_keeps_to_its_document(
    notifications: SessionFactory, databases: dict[str, str], people: Path, who: str, options: list[str]
) -> None:
    await receive(notifications, email_settings("postgresql://unused"), posted(uuid4(), 1), posted(uuid4(), 1))
    async with transaction(notifications) as session:
        over = {"state": "failed", "reason": "rejected", "finished_at": datetime.now(UTC)}
        await session.execute(update(Email).values(over))
    settings = ApiSettings(notifications_database_url=databases["notifications"], auth_secret=[SECRET])
    async with serving(create_app(settings)) as port:
        await hold_to(f"http://127.0.0.1:{port}/api/v1/notifications/openapi.json", who, people, *options)
