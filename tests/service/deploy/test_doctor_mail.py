from contextlib import AsyncExitStack
from pathlib import Path

import dns.asyncresolver
import pytest

from deploy.doctor.mail import check
from services.notifications.mail.signing import Signer
from tests.helpers.dns_server import Records, name_server
from tests.helpers.smtp_server import SmtpServer, smtp_server

SENDER = "store.brand.test"
DKIM_KEY = (Path(__file__).parents[2] / "unit/mail/dkim_test_key.pem").read_text()
ALL_RECORDS: Records = {
    (SENDER, "TXT"): ['"some-verification=1"', '"v=spf1 include:mail.test -all"'],
    (f"_dmarc.{SENDER}", "TXT"): ['"v=DMARC1; p=" "quarantine"'],
    (SENDER, "MX"): ["10 mx.brand.test."],
}

Found = list[tuple[str, str, str]]


async def found(
    monkeypatch: pytest.MonkeyPatch,
    databases: dict[str, str],
    server: SmtpServer,
    records: Records | None = None,
    **settings: str,
) -> Found:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", databases["notifications"])
    for name, value in {
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{server.port}",
        "CHATS_EMAIL_FROM": f"Support <support@{SENDER}>",
        "CHATS_PUBLIC_URL": "https://help.store.test",
        **settings,
    }.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        resolver = await stack.enter_async_context(name_server(records or {}))
        if records is None:  # a name server that does not answer
            resolver.port = 1
            monkeypatch.setattr("deploy.doctor.dns_records.TIMEOUT", 0.2)
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
        monkeypatch.setattr("deploy.doctor.dns_records.RESERVED", ("localhost",))  # the tests' own domain is reserved
        return [(finding.severity.name, finding.text, finding.advice or "") for finding in await check()]


async def test_a_good_server_and_good_records_are_fine_and_no_email_is_sent(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    async with smtp_server(extensions=("AUTH PLAIN LOGIN", "SMTPUTF8", "8BITMIME")) as server:
        url = f"smtp://shop:s3cret@127.0.0.1:{server.port}"
        findings = await found(monkeypatch, databases, server, ALL_RECORDS, CHATS_SMTP_URL=url)
        assert not any(command.upper().startswith("MAIL") for command in server.commands)
    texts = [text for _, text, _ in findings]
    assert {severity for severity, _, _ in findings} <= {"OK", "NOTE"}
    assert any("answers unencrypted and accepts the login" in text for text in texts)
    assert any("v=spf1 include:mail.test -all" in text for text in texts)
    assert any(f"_dmarc.{SENDER} says: v=DMARC1; p=quarantine" in text for text in texts)
    assert not any("s3cret" in text for text in texts)


@pytest.mark.parametrize(
    ("script", "phase"),
    [
        ({"banner": "554 5.7.1 go away"}, "banner"),
        ({"auth": "535 5.7.8 wrong password"}, "auth"),
        ({"ehlo": "550 5.7.1 who are you?"}, "ehlo"),
    ],
)
async def test_a_refusal_is_a_fault_with_phase_reply_and_advice(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], script: dict[str, str], phase: str
) -> None:
    async with smtp_server(extensions=("AUTH PLAIN",), **script) as server:  # type: ignore[arg-type]
        url = f"smtp://shop:s3cret@127.0.0.1:{server.port}"
        findings = await found(monkeypatch, databases, server, ALL_RECORDS, CHATS_SMTP_URL=url)
    [(text, advice)] = [(text, advice) for severity, text, advice in findings if severity == "FAULT"]
    assert f"in the phase {phase}: {script[phase].partition(' ')[0]}" in text
    assert advice
    assert "s3cret" not in text + advice


async def test_missing_records_are_printed_as_text_to_copy(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    async with smtp_server() as server:
        findings = await found(monkeypatch, databases, server, {("other.test", "A"): ["192.0.2.1"]})
    advice = {text.partition(":")[0]: advice.splitlines()[-1] for _, text, advice in findings if advice}
    assert advice["SPF"] == f'{SENDER}. TXT "v=spf1 mx ~all"'
    assert advice["DMARC"] == f'_dmarc.{SENDER}. TXT "v=DMARC1; p=none; rua=mailto:postmaster@{SENDER}"'
    assert advice["DKIM"] == f'SELECTOR._domainkey.{SENDER}. TXT "v=DKIM1; k=rsa; p=PUBLIC_KEY"'
    levels = {text.partition(":")[0]: severity for severity, text, _ in findings}
    assert (levels["SPF"], levels["DMARC"], levels["MX"]) == ("WARNING", "WARNING", "WARNING")


@pytest.mark.parametrize(
    ("changes", "severity", "part"),
    [
        ({(SENDER, "TXT"): ['"v=spf1 -all"', '"v=spf1 mx -all"']}, "FAULT", "has 2 records"),
        ({(SENDER, "TXT"): ['"V=SPF1 +all"']}, "FAULT", "whole internet"),
        ({(f"_dmarc.{SENDER}", "TXT"): ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}, "FAULT", "so none counts"),
        (
            {(f"_dmarc.{SENDER}", "TXT"): [], ("_dmarc.brand.test", "TXT"): ['"v=DMARC1; p=reject"']},
            "OK",
            "_dmarc.brand.test says",
        ),
    ],
)
async def test_records_are_read_as_receivers_do(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], changes: Records, severity: str, part: str
) -> None:
    async with smtp_server() as server:
        findings = await found(monkeypatch, databases, server, {**ALL_RECORDS, **changes})
    assert [level for level, text, _ in findings if part in text] == [severity]


@pytest.mark.parametrize(
    ("record", "domain", "severity", "part"),
    [
        ("v=DKIM1; k=rsa; p={key}", SENDER, "OK", "has the key that signs"),
        ("v=DKIM1; p = {key}", "brand.test", "OK", "has the key that signs"),
        ("v=DKIM1; k=rsa; p={key}", "other.test", "WARNING", "DMARC does not count"),
        ("v=DKIM1; k=rsa; p=MIGf", SENDER, "FAULT", "has another key"),
        (None, SENDER, "FAULT", "has no key"),
    ],
)
async def test_the_key_that_signs_is_compared_with_the_one_in_dns(
    monkeypatch: pytest.MonkeyPatch,
    databases: dict[str, str],
    record: str | None,
    domain: str,
    severity: str,
    part: str,
) -> None:
    text = record and record.replace("{key}", Signer.read(domain, "chats", DKIM_KEY).public_key)
    records = {**ALL_RECORDS, (f"chats._domainkey.{domain}", "TXT"): [f'"{text[:99]}" "{text[99:]}"'] if text else []}
    async with smtp_server() as server:
        settings = {"CHATS_DKIM_DOMAIN": domain, "CHATS_DKIM_SELECTOR": "chats", "CHATS_DKIM_KEY": DKIM_KEY}
        findings = await found(monkeypatch, databases, server, records, **settings)
    [(level, text, advice)] = [finding for finding in findings if finding[1].startswith("DKIM")]
    assert (level, part in text) == (severity, True)
    if severity == "FAULT":
        assert f'chats._domainkey.{domain}. TXT "v=DKIM1; k=rsa; p=' in advice


async def test_without_a_name_server_the_records_are_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    async with smtp_server() as server:
        findings = await found(monkeypatch, databases, server)
    assert [
        severity for severity, text, advice in findings if "no name server answered" in text and "TXT" in advice
    ] == [
        "NOTE",
        "NOTE",
    ]


async def test_a_sender_that_is_no_domain_on_the_internet_is_fine_for_a_local_server_only(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    async with smtp_server() as server:
        local = await found(monkeypatch, databases, server, {}, CHATS_EMAIL_FROM="support@localhost")
        assert [severity for severity, text, _ in local if "CHATS_EMAIL_FROM" in text] == ["NOTE"]
        away = await found(
            monkeypatch, databases, server, {}, CHATS_EMAIL_FROM="a@b.localhost", CHATS_SMTP_URL="smtp://mail.invalid"
        )
        assert [severity for severity, text, _ in away if "CHATS_EMAIL_FROM" in text] == ["WARNING"]


async def test_the_domain_of_envelope_senders_needs_records_of_its_own(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    inbound = {"CHATS_INBOUND_DOMAIN": f"reply.{SENDER}", "CHATS_INBOUND_SECRET": "a secret for tests"}
    records: Records = {
        (f"reply.{SENDER}", "TXT"): ['"v=spf1 mx -all"'],
        (f"reply.{SENDER}", "MX"): ["10 mx.brand.test."],
    }
    async with smtp_server() as server:
        good = await found(monkeypatch, databases, server, {**ALL_RECORDS, **records}, **inbound)
        bad = await found(monkeypatch, databases, server, ALL_RECORDS, **inbound)
    assert ("NOTE", f"SPF: reply.{SENDER} says: v=spf1 mx -all") in [finding[:2] for finding in good]
    said = [text for severity, text, _ in bad if severity == "WARNING" and f"reply.{SENDER}" in text]
    assert [text.partition(":")[0] for text in said] == ["SPF", "MX"]
