import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.notifications.mail.smtp import Attempt, Phase, SmtpConnection, SmtpServer, Timeouts, parse_smtp_url
from services.notifications.rules import Outcome, Reason
from tests.helpers import smtp_server as fake
from tests.helpers.smtp_server import DEFAULTS, DROP, KEEP_AND_DROP, KEEP_AND_STALL, STALL, smtp_server

SHORT = Timeouts(reply=0.4, end_of_data=0.4)  # where the server stalls
CONTENT = b"Subject: hello\r\n\r\n.a line with a dot\r\n..\r\nlast\r\n"
# More than the buffers of both sides of a loopback connection hold.
HUGE = b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 2_000_000


async def go() -> bool:
    return True


async def stop() -> bool:
    return False


def answering(phase: str, reply: str | list[str]) -> dict[str, Any]:
    return {phase: reply}


def url(server: fake.SmtpServer, scheme: str = "smtp", user: str = "") -> str:
    return f"{scheme}://{user}127.0.0.1:{server.port}"


def connection_to(server: fake.SmtpServer, scheme: str = "smtp", user: str = "") -> SmtpConnection:
    stalls = any(STALL in answer for answer in server.script.values())
    return SmtpConnection(parse_smtp_url(url(server, scheme, user)), timeouts=SHORT if stalls else Timeouts())


async def send(connection: SmtpConnection, **changes: Any) -> Attempt:
    arguments: dict[str, Any] = {
        "sender": "Store <store@shop.example>",
        "recipient": "mila@customer.example",
        "content": CONTENT,
        "before_data": go,
    }
    return await connection.send(**(arguments | changes))


async def send_once(server: fake.SmtpServer, **changes: Any) -> Attempt:
    connection = connection_to(server)
    try:
        return await send(connection, **changes)
    finally:
        await connection.close()


async def test_an_email_arrives_byte_for_byte_with_its_envelope() -> None:
    async with smtp_server() as server:
        result = await send_once(server)
    assert result == Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "2.0.0 taken")
    assert server.emails == [fake.ReceivedEmail("store@shop.example", ("mila@customer.example",), CONTENT)]


async def test_bare_line_endings_cannot_end_the_email() -> None:
    async with smtp_server() as server:
        await send_once(server, content=b"a\n.\nMAIL FROM:<x@y>\r.\rb")
    assert [mail.content for mail in server.emails] == [b"a\r\n.\r\nMAIL FROM:<x@y>\r\n.\r\nb\r\n"]


async def test_one_connection_carries_many_emails_and_is_closed_with_quit() -> None:
    async with smtp_server() as server:
        connection = connection_to(server)
        outcomes = [(await send(connection)).outcome for _ in range(5)]
        await connection.close()
    assert outcomes == [Outcome.ACCEPTED] * 5
    assert (server.connections, len(server.emails)) == (1, 5)
    assert server.commands[-1] == "QUIT"


@pytest.mark.parametrize(
    ("phase", "reply", "outcome"),
    [
        ("banner", "421 4.3.2 busy", Outcome.BUSY),
        ("banner", "554 5.7.1 go away", Outcome.MISCONFIGURED),
        ("banner", "HTTP/1.1 400 Bad Request", Outcome.MISCONFIGURED),
        ("banner", DROP, Outcome.MISCONFIGURED),
        ("banner", STALL, Outcome.MISCONFIGURED),
        ("ehlo", "550 5.7.1 who?", Outcome.MISCONFIGURED),
        ("ehlo", "421 4.3.2 busy", Outcome.BUSY),
        ("ehlo", DROP, Outcome.BUSY),
        ("mail", "451 4.7.1 later", Outcome.BUSY),
        ("mail", "530 5.7.0 authenticate first", Outcome.MISCONFIGURED),
        ("mail", DROP, Outcome.BUSY),
        ("mail", STALL, Outcome.BUSY),
        ("rcpt", "450 4.2.0 greylisted", Outcome.DEFERRED),
        ("rcpt", "550 5.1.1 no such user", Outcome.REJECTED),
        ("rcpt", DROP, Outcome.DEFERRED),
        ("rcpt", STALL, Outcome.DEFERRED),
        ("rcpt", "what?", Outcome.DEFERRED),
        ("data", "451 4.3.0 later", Outcome.DEFERRED),
        ("data", "554 5.5.1 no", Outcome.REJECTED),
        ("data", DROP, Outcome.DEFERRED),
        ("data", STALL, Outcome.DEFERRED),
        ("end", "451 4.3.0 later", Outcome.DEFERRED),
        ("end", "554 5.6.0 looks like spam", Outcome.REJECTED),
        ("end", "what?", Outcome.UNCERTAIN),
        ("end", DROP, Outcome.UNCERTAIN),
        ("end", STALL, Outcome.UNCERTAIN),
        ("end", KEEP_AND_DROP, Outcome.UNCERTAIN),
        ("end", KEEP_AND_STALL, Outcome.UNCERTAIN),
    ],
)
async def test_the_meaning_of_a_failure_depends_on_its_phase(phase: str, reply: str, outcome: Outcome) -> None:
    async with smtp_server(**answering(phase, reply)) as server:
        result = await send_once(server)
    assert result.outcome is outcome
    if reply[:3].isdigit():
        assert (result.phase, result.code, result.reply) == (
            {"end": Phase.END_OF_DATA}.get(phase) or Phase(phase),
            int(reply[:3]),
            reply[4:],
        )
    else:
        assert result.code is None
        assert result.reply
    assert server.connections == 1
    assert bool(server.emails) == (reply in {KEEP_AND_DROP, KEEP_AND_STALL})


@pytest.mark.parametrize("ending", [DROP, STALL])
async def test_a_break_during_the_content_counts_as_before_the_dot(ending: str) -> None:
    async with smtp_server(extensions=["8BITMIME"], content=ending) as server:
        result = await send_once(server, content=HUGE)
    assert (result.outcome, result.phase) == (Outcome.DEFERRED, Phase.CONTENT)


async def test_after_each_refusal_the_same_connection_takes_the_next_email() -> None:
    async with smtp_server(rcpt=["550 5.1.1 no such user"], data=["451 later"], end=["554 spam"]) as server:
        connection = connection_to(server)
        outcomes = [(await send(connection)).outcome for _ in range(4)]
        await connection.close()
    assert outcomes == [Outcome.REJECTED, Outcome.DEFERRED, Outcome.REJECTED, Outcome.ACCEPTED]
    assert server.connections == 1


@pytest.mark.parametrize("reset", [DROP, "500 what?", STALL])
async def test_a_failed_reset_changes_no_outcome_and_the_next_email_uses_a_new_connection(reset: str) -> None:
    async with smtp_server(rcpt=["550 5.1.1 no such user"], rset=reset) as server:
        connection = connection_to(server)
        outcomes = [(await send(connection)).outcome for _ in range(2)]
        await connection.close()
    assert outcomes == [Outcome.REJECTED, Outcome.ACCEPTED]
    assert server.connections == 2


async def test_an_idle_connection_closed_by_the_server_is_replaced() -> None:
    async with smtp_server() as server:
        connection = connection_to(server)
        await send(connection)
        await server.hang_up()
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert (server.connections, len(server.emails)) == (2, 2)


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("ending", [DROP, STALL, "421 4.4.2 idle too long"])
async def test_a_reused_connection_that_breaks_before_the_dot_is_replaced_once(phase: str, ending: str) -> None:
    async with smtp_server(**answering(phase, [DEFAULTS[phase], ending])) as server:
        connection = connection_to(server)
        assert [(await send(connection)).outcome for _ in range(2)] == [Outcome.ACCEPTED] * 2
        server.script[phase] = ending
        assert (await send(connection)).outcome in {Outcome.DEFERRED, Outcome.BUSY}
        await connection.close()
    assert (server.connections, len(server.emails)) == (3, 2)


async def test_after_a_break_after_the_dot_the_email_is_not_sent_again() -> None:
    async with smtp_server(end=["250 taken", KEEP_AND_DROP]) as server:
        connection = connection_to(server)
        outcomes = [(await send(connection)).outcome for _ in range(2)]
        await connection.close()
    assert outcomes == [Outcome.ACCEPTED, Outcome.UNCERTAIN]
    assert (server.connections, len(server.emails)) == (1, 2)


async def test_an_email_whose_lease_is_lost_is_abandoned_after_rcpt_and_before_data() -> None:
    async with smtp_server() as server:
        connection = connection_to(server)
        assert (await send(connection, before_data=stop)).outcome is Outcome.ABANDONED
        assert server.commands[-2:] == ["RCPT TO:<mila@customer.example>", "RSET"]
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert (server.connections, len(server.emails)) == (1, 1)


async def test_before_data_is_only_called_after_the_recipient_was_accepted() -> None:
    async def never() -> bool:
        raise AssertionError

    async with smtp_server(rcpt="550 no") as server:
        assert (await send_once(server, before_data=never)).outcome is Outcome.REJECTED


async def test_when_before_data_fails_nothing_is_sent_and_the_connection_is_closed() -> None:
    async def fail() -> bool:
        raise LookupError

    async with smtp_server() as server:
        connection = connection_to(server)
        with pytest.raises(LookupError):
            await send(connection, before_data=fail)
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert (server.connections, len(server.emails)) == (2, 1)


async def test_a_cancelled_attempt_leaves_no_partial_email_on_the_connection() -> None:
    reached = asyncio.Event()

    async def hang() -> bool:
        reached.set()
        await asyncio.Event().wait()
        return True

    async with smtp_server() as server:
        connection = connection_to(server)
        sending = asyncio.create_task(send(connection, before_data=hang))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert (server.connections, len(server.emails)) == (2, 1)


async def test_an_international_address_is_sent_unchanged_with_an_ascii_domain() -> None:
    async with smtp_server() as server:
        result = await send_once(server, recipient="zoë@straße.example")
    assert result.outcome is Outcome.ACCEPTED
    assert server.emails[0].recipients == ("zoë@xn--strae-oqa.example",)
    assert f"MAIL FROM:<store@shop.example> SIZE={len(CONTENT)} BODY=8BITMIME SMTPUTF8" in server.commands


@pytest.mark.parametrize("local", ["mila..sato", "mila.", ".mila", "mila...sato.."])
async def test_a_local_part_with_unusual_dots_is_quoted(local: str) -> None:
    async with smtp_server() as server:
        result = await send_once(server, recipient=f"{local}@docomo.example", sender=f"Store <{local}@shop.example>")
    assert result.outcome is Outcome.ACCEPTED
    assert f'RCPT TO:<"{local}"@docomo.example>' in server.commands
    assert any(command.startswith(f'MAIL FROM:<"{local}"@shop.example>') for command in server.commands)


async def test_an_international_domain_alone_needs_no_extension() -> None:
    async with smtp_server(extensions=["8BITMIME"]) as server:
        result = await send_once(server, recipient="zoe@straße.example")
    assert result.outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("extensions", "script", "recipient"),
    [
        (["8BITMIME"], {}, "zoë@customer.example"),
        (["SMTPUTF8"], {"mail": ["555 5.5.4 not really"]}, "zoë@customer.example"),
        (["SMTPUTF8"], {}, "two@customer.example, three@customer.example"),
        (["SMTPUTF8"], {}, "x@customer.example>\r\nRCPT TO:<y@customer.example"),
        (["SMTPUTF8"], {}, "nobody"),
    ],
)
async def test_an_unsupported_address_rejects_only_its_email(
    extensions: list[str], script: dict[str, Any], recipient: str
) -> None:
    async with smtp_server(extensions=extensions, **script) as server:
        connection = connection_to(server)
        result = await send(connection, recipient=recipient)
        assert (result.outcome, result.rejection) == (Outcome.REJECTED, Reason.ADDRESS_NOT_SUPPORTED)
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert server.connections == 1


@pytest.mark.parametrize("sender", ["", "nobody", "zoë@shop.example"])
async def test_an_invalid_sender_is_a_setup_fault(sender: str) -> None:
    async with smtp_server() as server:
        assert (await send_once(server, sender=sender)).outcome is Outcome.MISCONFIGURED


async def test_a_reply_is_kept_as_one_short_line() -> None:
    async with smtp_server(rcpt="550-no\tsuch\x1b user\r\n550 " + "x" * 900) as server:
        result = await send_once(server)
    assert result.reply.startswith("no such user xxx")
    assert len(result.reply) == 500


@pytest.mark.parametrize("host", ["127.0.0.1:1", "host.invalid:25", "a..b:25"])
async def test_an_unreachable_host_is_a_fault_of_the_setup(host: str) -> None:
    connection = SmtpConnection(parse_smtp_url(f"smtp://{host}"), timeouts=SHORT)
    result = await send(connection)
    assert (result.outcome, result.phase) == (Outcome.MISCONFIGURED, Phase.CONNECT)
    await connection.close()


async def test_a_user_is_logged_in_with_the_decoded_password() -> None:
    async with smtp_server(extensions=["AUTH PLAIN"]) as server:
        connection = connection_to(server, user="us%40er:p%2Fw%3A@")
        assert (await send(connection)).outcome is Outcome.ACCEPTED
        await connection.close()
    assert server.emails[0].user == "us@er"
    assert "AUTH PLAIN AHVzQGVyAHAvdzo=" in server.commands


@pytest.mark.parametrize(
    ("extensions", "reply", "outcome"),
    [
        (["8BITMIME"], "235 welcome", Outcome.MISCONFIGURED),
        (["AUTH GSSAPI"], "235 welcome", Outcome.MISCONFIGURED),
        (["AUTH PLAIN"], "535 5.7.8 wrong password", Outcome.MISCONFIGURED),
        (["AUTH PLAIN"], "454 4.7.0 try later", Outcome.BUSY),
    ],
)
async def test_without_a_login_nothing_is_sent_and_the_connection_is_closed(
    extensions: list[str], reply: str, outcome: Outcome
) -> None:
    async with smtp_server(extensions=extensions, auth=reply) as server:
        connection = connection_to(server, user="user:password@")
        results = [await send(connection) for _ in range(2)]
        await connection.close()
    assert {(result.outcome, result.phase) for result in results} == {(outcome, Phase.AUTH)}
    assert not any(command.startswith("MAIL") for command in server.commands)
    assert server.connections == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(params=["smtps", "smtp+starttls"])
async def tls_server(
    request: pytest.FixtureRequest, certificate: Path
) -> AsyncIterator[tuple[fake.SmtpServer, SmtpServer]]:
    """A server with TLS, and its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with smtp_server(extensions=["STARTTLS"], tls=context, implicit_tls=request.param == "smtps") as server:
        yield server, parse_smtp_url(url(server, request.param))


async def test_emails_are_sent_over_verified_tls(
    tls_server: tuple[fake.SmtpServer, SmtpServer], certificate: Path
) -> None:
    server, address = tls_server
    trusting = ssl.create_default_context(cafile=str(certificate))
    connection = SmtpConnection(address, tls=trusting)
    results = [await send(connection), await send(connection, content=HUGE[:5_000_000])]
    await connection.close()
    assert [result.outcome for result in results] == [Outcome.ACCEPTED] * 2
    assert (server.connections, server.emails[0].content) == (1, CONTENT)


async def test_an_unverifiable_certificate_is_a_setup_fault(
    tls_server: tuple[fake.SmtpServer, SmtpServer],
) -> None:
    server, address = tls_server
    connection = SmtpConnection(address)
    result = await send(connection)
    await connection.close()
    assert result.outcome is Outcome.MISCONFIGURED
    assert "certificate" in result.reply.lower()
    assert not server.emails


@pytest.mark.parametrize(
    ("extensions", "script"),
    [(["8BITMIME"], {}), (["STARTTLS"], {"starttls": "454 no"}), (["STARTTLS"], {"starttls": "502 no"})],
)
async def test_without_starttls_nothing_is_sent_in_plain_text(extensions: list[str], script: dict[str, Any]) -> None:
    async with smtp_server(extensions=extensions, **script) as server:
        connection = connection_to(server, "smtp+starttls", "user:password@")
        result = await send(connection)
        await connection.close()
    assert result.phase is Phase.STARTTLS
    assert result.outcome is (Outcome.BUSY if result.code == 454 else Outcome.MISCONFIGURED)
    assert {command.split()[0] for command in server.commands} <= {"EHLO", "STARTTLS", "QUIT"}
