"""A customer who answers in mutt: its keys, on a terminal of its own, and an editor that types above the quote."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

from tests.real_mail.helpers.dovecot import PASSWORD
from tests.real_mail.helpers.programs import ENVIRONMENT, TREE

SECONDS = 60

_EDITOR = """#!/bin/sh
{{ cat {text}; echo; cat "$1"; }} >"$1.new" && mv "$1.new" "$1"
"""
_SETTINGS = """
set folder=imap://{user}@127.0.0.1:{imap}/
set spoolfile=imap://{user}@127.0.0.1:{imap}/INBOX
set imap_pass={password} imap_authenticators=login
set ssl_starttls=no ssl_force_tls=no
set smtp_url=smtp://127.0.0.1:{smtp}/
set from={user} realname=Anna use_from use_envelope_from
set editor={editor} autoedit fast_reply include=yes
set copy=no move=no confirmappend=no delete=no quit=yes wait_key=no recall=no abort_unmodified=no abort_noattach=no
set tmpdir={directory}
set reply_to=yes ignore_list_reply_to=no honor_followup_to=no
"""


def answer(directory: Path, user: str, imap: int, smtp: int, text: str) -> None:
    """Open the newest email in the mailbox, answer it, and quit."""
    directory.mkdir()
    (directory / "text").write_text(f"{text}\n")
    editor = directory / "editor"
    editor.write_text(_EDITOR.format(text=directory / "text"))
    editor.chmod(0o700)
    configuration = directory / "muttrc"
    configuration.write_text(
        _SETTINGS.format(user=user, imap=imap, smtp=smtp, password=PASSWORD, editor=editor, directory=directory)
    )
    keys = "<last-entry><reply><send-message><quit>"
    command = [str(TREE / "usr/bin/mutt"), "-n", "-F", str(configuration), "-e", f"push {keys}"]
    environment = ENVIRONMENT | {"TERM": "linux", "HOME": str(directory)}
    screen, terminal = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - a program of the system
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    )
    os.close(terminal)
    shown, deadline = bytearray(), time.monotonic() + SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([screen], [], [], 0.1)[0]:
                try:
                    shown += os.read(screen, 65536)
                except OSError:  # the end of the terminal
                    break
        process.wait(max(0.1, deadline - time.monotonic()))
        assert process.returncode == 0, shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(screen)
