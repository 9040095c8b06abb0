"""The `chats` command as operators run it: what it prints when it cannot do its work."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "command", ["emails pause", "emails retry --state failed", "people export C-42", "people merge C-42 C-43"]
)
def test_a_database_that_does_not_answer_is_one_line(command: str, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://chats:hidden@127.0.0.1:{closed.getsockname()[1]}/chats"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHATS_")},
            "CHATS_CONVERSATIONS_DATABASE_URL": url,
            "CHATS_NOTIFICATIONS_DATABASE_URL": url,
            "CHATS_NOTIFICATIONS_URL": "http://127.0.0.1:1",
            "CHATS_FEED_SECRET": "a secret for tests of 32 bytes or more",
            "CHATS_DATA_DIR": str(tmp_path),
        }
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "deploy.cli", *command.split()],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("chats: the database does not answer (")
    assert "hidden" not in line
