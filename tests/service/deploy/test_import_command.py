"""`chats import`: the bulk import, directly on the database."""

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner, Result

from deploy.cli import app
from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import ORDER, Caller, logged

KNOWN = [{"type": "user", "id": "anna", "name": "Anna"}, {"type": "order", "id": "A-1", **ORDER}]
WRONG = {"type": "order", "id": "A-2"}


async def chats_import(databases: dict[str, str], name: str, given: bytes = b"") -> Result:
    environment = {"CHATS_CONVERSATIONS_DATABASE_URL": databases["conversations"]}
    return await asyncio.to_thread(CliRunner().invoke, app, ["import", name], input=given, env=environment)


async def test_a_file_is_imported_and_rejected_lines_are_reported(
    databases: dict[str, str], conversations: SessionFactory, sam: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "store.ndjson"
    file.write_text("\n".join(map(json.dumps, [*KNOWN, WRONG])))
    for summary in ("2 created, 0 already existed, 1 rejected.\n", "0 created, 2 already existed, 1 rejected.\n"):
        done = await chats_import(databases, str(file))
        assert (done.exit_code, done.stdout) == (1, summary)
        assert done.stderr.startswith("line 3, A-2: user_id: Field required; number: Field required")
        assert len(done.stderr.splitlines()) == 1
    assert [user["name"] for user in (await sam.get("/users"))["items"]] == ["Anna"]
    assert len(await logged(conversations)) == 1


async def test_standard_input_is_imported_too(databases: dict[str, str], conversations: SessionFactory) -> None:
    done = await chats_import(databases, "-", "\r\n".join(map(json.dumps, KNOWN)).encode())
    assert (done.exit_code, done.output) == (0, "2 created, 0 already existed, 0 rejected.\n")
    assert len(await logged(conversations)) == 1


async def test_the_content_of_a_file_cannot_control_the_terminal(
    databases: dict[str, str], conversations: SessionFactory
) -> None:
    hostile = [
        {"type": "user", "id": "\x1b[2J\r\x9b", "name": "x"},
        {"type": "user", "id": "ben", "\x1b]0;title\x07\u202e": 1, "locale": "\x1b[31m"},
    ]
    done = await chats_import(databases, "-", "\n".join(map(json.dumps, hostile)).encode())
    assert (done.exit_code, done.stdout) == (1, "1 created, 0 already existed, 1 rejected.\n")
    assert len(await logged(conversations)) == 0
    refused, locale, unknown = done.stderr.splitlines()
    assert refused.startswith(r"line 1, \x1b[2J\r\x9b: id: ")
    assert locale.startswith("line 2, ben: warning: locale: left out")
    assert unknown == r"line 2, ben: warning: \x1b]0;title\x07\u202e: unknown field, ignored"


async def test_only_the_first_of_very_many_warnings_are_printed(
    databases: dict[str, str], conversations: SessionFactory
) -> None:
    people = [{"type": "user", "id": f"C-{n}", "name": "x", "email": "x", "a": 1, "b": 2} for n in range(50)]
    done = await chats_import(databases, "-", "\n".join(map(json.dumps, people)).encode())
    assert (done.exit_code, done.stdout) == (0, "50 created, 0 already existed, 0 rejected.\n")
    *warnings, last = done.stderr.splitlines()
    assert (len(warnings), last) == (100, "50 more warnings.")
    assert len(await logged(conversations)) == 50
