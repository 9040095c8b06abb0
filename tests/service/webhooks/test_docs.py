"""The code in docs/webhooks.md accepts what we send, and nothing else, where its language is installed."""

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from services.conversations.webhooks.signing import make_secret, sign

DOCS = Path(__file__).parents[3] / "docs" / "webhooks.md"
BODY = json.dumps({"type": "message.posted", "data": {"body": "Grüße 👋"}}, ensure_ascii=False)


def snippet(language: str) -> str:
    [code] = re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


def cases() -> list[tuple[dict[str, Any], bool]]:
    """Return what the code is called with, and whether the request is ours."""
    secret, old = make_secret(), make_secret()

    def case(
        body: str = BODY, *, age: int = 0, keys: list[str] | None = None, event_id: str = "event"
    ) -> dict[str, Any]:
        moment = int(time.time()) - age
        signature = sign(keys or [secret], "event", moment, BODY.encode())
        headers = {"webhook-id": event_id, "webhook-timestamp": str(moment), "webhook-signature": signature}
        return {"body": body, "secret": secret, "headers": headers}

    return [
        (case(), True),
        (case(keys=[old, secret]), True),
        (case(keys=[old]), False),
        (case(BODY + " "), False),
        (case(age=3600), False),
        (case(event_id="another"), False),
    ]


def test_the_python_code_verifies() -> None:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)  # noqa: S102 - our own documentation
    for case, is_ours in cases():
        event = names["read_event"](case["body"].encode(), case["headers"], case["secret"])
        assert event == (json.loads(BODY) if is_ours else None)


async def run(folder: Path, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.skipif(shutil.which("npm") is None, reason="node is not installed")
async def test_the_javascript_code_verifies(tmp_path: Path) -> None:
    options = ("--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefix", ".")
    await run(tmp_path, "npm", "install", *options, "standardwebhooks@1.1.1")
    calls = json.dumps([case for case, _ in cases()])
    code = (
        f"{snippet('js')}\nfor (const c of {calls}) console.log(JSON.stringify(readEvent(c.body, c.headers, c.secret)))"
    )
    (tmp_path / "verify.cjs").write_text(code)
    lines = (await run(tmp_path, "node", "verify.cjs")).splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(BODY) if is_ours else None for _, is_ours in cases()]


@pytest.mark.skipif(shutil.which("php") is None, reason="PHP is not installed")
async def test_the_php_code_verifies(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps([case for case, _ in cases()]))
    (tmp_path / "verify.php").write_text(
        f"<?php\n{snippet('php')}\nforeach (json_decode(file_get_contents('cases.json'), true) as $c) "
        "{ echo json_encode(read_event($c['body'], $c['headers'], $c['secret'])), \"\\n\"; }\n"
    )
    lines = (await run(tmp_path, "php", "verify.php")).splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(BODY) if is_ours else None for _, is_ours in cases()]
