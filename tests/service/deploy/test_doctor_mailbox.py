"""`chats doctor mailbox` says what is wrong with a mailbox, and changes nothing in it."""

import pytest

from deploy.doctor.mailbox import check
from tests.helpers.imap_server import scripted

CAPABLE = "* CAPABILITY IMAP4rev1 AUTH=PLAIN {}\r\n{{tag}} OK Done\r\n"


@pytest.mark.parametrize(
    ("capabilities", "answers", "found"),
    [
        ("IDLE MOVE", {}, []),
        ("UIDPLUS", {}, [("NOTE", "no IDLE")]),
        ("IDLE", {}, [("FAULT", "cannot be moved")]),
        ("IDLE MOVE", {'STATUS "Customer': "{tag} NO\r\n"}, [("NOTE", "chats inbound makes it")]),
        ("IDLE MOVE", {'STATUS "INBOX': "{tag} NO\r\n"}, [("FAULT", "no folder INBOX")]),
        ("IDLE MOVE", {"AUTHENTICATE": "{tag} NO Not you\r\n"}, [("FAULT", "refuses the login: Not you")]),
        ("IDLE MOVE", {"STATUS": "* BYE Tired\r\n"}, [("FAULT", "failed: Tired")]),
    ],
)
async def test_each_fault_is_said(
    monkeypatch: pytest.MonkeyPatch, capabilities: str, answers: dict[str, str], found: list[tuple[str, str]]
) -> None:
    async with scripted({"CAPABILITY": CAPABLE.format(capabilities), **answers}) as (port, got):
        for name, value in {
            "NOTIFICATIONS_DATABASE_URL": "postgresql://x/y",
            "INBOUND_DOMAIN": "in.store.test",
            "INBOUND_SECRET": "x" * 32,
            "INBOUND_IMAP_URL": f"imap://anna:s3cret@127.0.0.1:{port}",
        }.items():
            monkeypatch.setenv(f"CHATS_{name}", value)
        findings = await check()
    bad = [finding for finding in findings if finding.severity.name != "OK"]
    assert [(finding.severity.name, text in finding.text) for finding, (_, text) in zip(bad, found, strict=True)] == [
        (severity, True) for severity, _ in found
    ]
    assert not any("s3cret" in f"{finding}" for finding in findings)
    assert {command.split()[0] for command in got} <= {"CAPABILITY", "AUTHENTICATE", "STATUS", "LOGOUT"} | {
        "AGFubmEAczNjcmV0"
    }


async def test_without_a_mailbox_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://x/y")
    [finding] = await check()
    assert finding.text.startswith("CHATS_INBOUND_IMAP_URL is not set")
