"""Reports in the shapes of mail servers: what each says, and what follows from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifications.delivery.bounces import Consequence
from services.notifications.inbound.reports.bounce_rules import judge
from services.notifications.inbound.reports.delivery_reports import Action, DeliveryReport, read_report, statuses
from services.notifications.inbound.reports.report_parts import MAX_READ, MAX_TEXT, read_blocks, read_parts
from services.notifications.rules import Reason

REPORTS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "corpus/reports.json").read_text())
ADDRESS = "maria@customer.example"


def read(source: bytes, address: str | None = ADDRESS) -> DeliveryReport | None:
    return read_report(*read_parts(source), address)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", REPORTS, ids=[case["name"] for case in REPORTS])
def test_each_report_says_what_became_of_the_email_and_what_follows(case: dict[str, Any], line_end: str) -> None:
    report = read(case["source"].replace("\n", line_end).encode(), case["address"])
    found = None
    if report is not None:
        found = {"action": str(report.action)}
        if report.action is Action.FAILED:
            verdict = judge(report, case["address"])
            found |= {"status": verdict.status, "reason": verdict.reason, "consequence": verdict.consequence}
        assert case["address"] not in report.diagnostic + report.text
    assert found == case["expected"]


@pytest.mark.parametrize(
    ("status", "reason", "consequence"),
    [
        ("5.1.1", Reason.MAILBOX_UNKNOWN, Consequence.SUPPRESS),
        ("5.1.3", Reason.MAILBOX_UNKNOWN, Consequence.SUPPRESS),
        ("5.1.6", Reason.MAILBOX_UNKNOWN, Consequence.SUPPRESS),
        ("5.1.10", Reason.MAILBOX_UNKNOWN, Consequence.SUPPRESS),
        ("5.1.2", Reason.DOMAIN_UNKNOWN, Consequence.SUPPRESS_ON_ANOTHER_DAY),
        ("5.1.7", Reason.SENDER_REFUSED, Consequence.OPEN_BREAKER),
        ("5.1.8", Reason.SENDER_REFUSED, Consequence.OPEN_BREAKER),
        ("5.7.0", Reason.SENDER_REFUSED, Consequence.OPEN_BREAKER),
        ("5.7.1", Reason.SENDER_REFUSED, Consequence.OPEN_BREAKER),
        ("5.7.26", Reason.SENDER_REFUSED, Consequence.OPEN_BREAKER),
        ("5.2.2", Reason.MAILBOX_FULL, Consequence.NOTHING),
        ("4.2.2", Reason.MAILBOX_FULL, Consequence.NOTHING),
        ("4.1.1", Reason.NOT_IN_TIME, Consequence.NOTHING),
        ("4.7.1", Reason.NOT_IN_TIME, Consequence.NOTHING),
        ("5.0.0", Reason.UNDELIVERABLE, Consequence.SUPPRESS_ON_SECOND),
        ("5.1.0", Reason.UNDELIVERABLE, Consequence.SUPPRESS_ON_SECOND),
        ("5.6.0", Reason.UNDELIVERABLE, Consequence.SUPPRESS_ON_SECOND),
        ("5.3.2", Reason.UNDELIVERABLE, Consequence.NOTHING),
    ],
)
def test_what_follows_from_a_status_alone(status: str, reason: Reason, consequence: Consequence) -> None:
    verdict = judge(DeliveryReport(Action.FAILED, status), ADDRESS)
    assert (verdict.reason, verdict.consequence, verdict.permanent) == (reason, consequence, status[0] == "5")


@pytest.mark.parametrize("status", ["5.1.1", "5.1.3", "5.1.6", "5.1.10", "5.2.2", "5.7.1"])
def test_the_detail_of_a_status_is_not_overruled_by_words(status: str) -> None:
    plain = judge(DeliveryReport(Action.FAILED, status), ADDRESS)
    worded = DeliveryReport(Action.FAILED, status, "550 mailbox full, user unknown, blocked by policy reasons")
    assert judge(worded, ADDRESS) == plain


def test_a_code_without_detail_gives_way_to_that_of_the_recipients_server() -> None:
    for said, status in (("550 5.1.1 x", "5.1.1"), ("452 4.2.2 full", "4.2.2"), ("550 5.1.0 x", "5.0.0")):
        assert judge(DeliveryReport(Action.FAILED, "5.0.0", said), ADDRESS).status == status


def test_an_erased_address_is_not_compared() -> None:
    report = DeliveryReport(Action.FAILED, "5.1.1", recipient="other@elsewhere.example")
    assert judge(report, None).consequence is Consequence.SUPPRESS
    assert judge(report, ADDRESS).consequence is Consequence.SUPPRESS_ON_SECOND


def test_only_status_codes_are_read_as_such() -> None:
    assert statuses("550-5.1.1 x (#5.2.2) 5.1.10; 5.1.1.2 v5.7.1 a5.1.1 <x@5.1.1> 10.5.1.1 5.1.1-rc") == [
        "5.1.1",
        "5.2.2",
        "5.1.10",
        "5.1.1",
    ]


def test_a_report_is_read_whatever_the_length_of_our_email_in_it() -> None:
    source = REPORTS[0]["source"].encode()
    head, tail = source[: source.index(b"--B1--")], b"\n--B1--\n"
    report = read(head + b"x" * 3 * MAX_READ + tail)
    assert report is not None
    assert report.status == "5.1.1"


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_without_an_error(source: bytes) -> None:
    read(source)
    read(REPORTS[0]["source"].encode()[:900] + source)


@given(st.text(max_size=500))
def test_any_text_of_fields_is_read_without_an_error(text: str) -> None:
    blocks = read_blocks(text)
    assert all(block for block in blocks)
    source = REPORTS[0]["source"]
    for report in (read(source.replace("5.1.1", text).encode("utf-8", "replace")), read(f"{source}{text}".encode())):
        if report is not None and report.action is Action.FAILED:
            judge(report, ADDRESS)


STATUS_PART = b"Content-Type: multipart/report; boundary=B\n\n--B\nContent-Type: message/delivery-status\n\n"
SYSTEM = b"From: mailer-daemon@x.example\nSubject: failure notice\n"


@pytest.mark.parametrize(
    "hostile",
    [
        b"Content-Type: multipart/report; boundary=" + b"x" * 100_000 + b"\n\n",
        b"Content-Type: multipart/report; boundary=B\n\n" + b"--B\n" * 200_000,
        STATUS_PART + b"a: b\n\n" * 90_000,
        STATUS_PART + b"a: b\n" + b" c\n" * 150_000,
        STATUS_PART + b"Action: failed\nDiagnostic-Code: x;" + b"5.1" * 150_000,
        SYSTEM + b"\n" + b"<a@b " * 100_000,
        SYSTEM + b"\n" + b"mailbox " * 60_000,
        SYSTEM + b"Content-Type: text/html\n\n" + b"<p>" * 100_000,
    ],
    ids=["boundary", "parts", "blocks", "continuation", "statuses", "addresses", "words", "html"],
)
def test_a_hostile_report_is_read_to_its_bounds(hostile: bytes) -> None:
    report = read(hostile)  # each takes a tenth of a second at most; what grows with the square would take minutes
    assert len(report.text if report is not None else "") <= MAX_TEXT
    if report is not None and report.action is Action.FAILED:
        judge(report, ADDRESS)
