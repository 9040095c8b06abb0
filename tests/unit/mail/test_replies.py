"""What a mail server's reply means, with the replies of real servers."""

import pytest

from services.notifications.mail.attempts import Phase
from services.notifications.mail.replies import classify_failure, without_addresses
from services.notifications.rules import Outcome, Reason

LOST = ConnectionResetError()
SET_UP = [
    "554 5.7.1 <mila@customer.test>: Relay access denied",  # Postfix
    "454 4.7.1 <mila@customer.test>: Relay access denied",  # Postfix by default
    "550 relay not permitted",  # Exim
    "550 5.7.1 Unable to relay",  # Exchange
    "550 5.7.1 <mila@customer.test>... Relaying denied. Proper authentication required.",  # Sendmail
    "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",  # qmail
    "513 Relaying denied",
    "553 Relaying disallowed as store@shop.test",
    "530 5.7.1 Authentication required",
    "530 5.7.0 Must issue a STARTTLS command first",
    "550 authentication required",
    "503 This mail server requires authentication when sending to a non-local address.",
    "535 5.7.8 Error: authentication failed",
    "550 5.7.26 Unauthenticated email from shop.test is not accepted due to domain's DMARC policy",
    "550 5.1.8 <store@shop.test>: Sender address rejected: Domain not found",
    "550 5.1.0 <store@shop.test>: Sender address rejected: User unknown in virtual mailbox table",
    "450 4.1.8 <store@shop.test>: Sender address rejected: Domain not found",
    "553 5.7.1 <store@shop.test>: Sender address rejected: not owned by user store",
    "550 Sender verify failed",  # Exim
    "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied",
    "530 Must issue STARTTLS first",
    "550 This message requires STARTTLS",
    "550 TLS required",
    "451 4.7.1 Please authenticate before sending",
    "554 Denied [NOSMTPAUTH]",
    "553 5.5.4 <store>: Domain name required for sender address",
    "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
    "554 5.2.252 SendAsDenied; store@shop.test not allowed to send as",
    "554 Service unavailable; Client host [192.0.2.1] blocked using dnsbl.test",
]
POLICY = [
    "550 5.7.1 Delivery not authorized, message refused",
    "550 5.7.1 <mila@customer.test>: Recipient address rejected: Access denied",
    "554 5.7.1 Spam message rejected",
    "550 5.7.129 RESOLVER.RST.RestrictedToRecipientsPermission",
    "550 Administrative prohibition",  # Exim
    "550 Delivery is not allowed to this address.",  # hMailServer
    "550 permission denied",
    "550 No RDNS entry for 192.0.2.1",
    "554 Your access has been rejected due to the sending server's poor reputation",
    "550 Invalid recipient: <mila@customer.test>",  # OpenSMTPD
    "554 Message rejected: Email address is not verified. The following identities failed the check: store@shop.test",
    "554 Message rejected: Sending paused for this account.",
    "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved.",
    "550 Unauthenticated senders not allowed",
    "550 The 'From' address you supplied (store@shop.test) is not a Sender Signature on your account.",
    "550 Sender address has not been validated yet",
    "550 5.4.5 Daily user sending limit exceeded.",
    "550 User store@shop.test has exceeded its 24-hour sending limit.",
    "550 Domain shop.test has exceeded the max emails per hour (500/500 (100%)) allowed. Message discarded.",
    "550 5.4.6 Unusual sending activity detected. Please try after sometime",
    "550 SPF MAIL FROM check failed",
    "550 JunkMail rejected - host [192.0.2.1] is in an RBL",
]
OWN = [
    "550 5.1.1 <mila@customer.test>: Recipient address rejected: User unknown in local recipient table",
    "550 5.1.1 <relay.denied@customer.test>: no such user",
    "550 relay.not.permitted@customer.test: unknown user",
    "550 5.1.1 The account does not exist; sender rejected by policy",
    "552 5.2.2 mailbox full",
    "550 5.4.1 Recipient address rejected: Access denied",
    "554 5.6.0 the message is malformed",
    "550 no such user here",
]
LATER = [
    "450 4.2.0 <mila@customer.test>: Recipient address rejected: Greylisted, see http://postgrey.test/",
    "451 4.7.1 Greylisting in action, please come back later",
    "450 4.7.1 <store@shop.test>: Sender address rejected: Greylisted",
    "451 4.3.0 <mila@customer.test>: Temporary lookup failure",
    "452 4.2.2 mailbox full",
]


def split(reply: str) -> tuple[int, str]:
    code, _, text = reply.partition(" ")
    return int(code), text


@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.DATA, Phase.END_OF_DATA])
@pytest.mark.parametrize(
    ("replies", "outcome", "own"),
    [
        (SET_UP, Outcome.REFUSED, Outcome.DEFERRED),
        (POLICY, Outcome.REFUSED, Outcome.REJECTED),
        (OWN, Outcome.REJECTED, None),
        (LATER, Outcome.DEFERRED, None),
    ],
)
def test_a_servers_reply_distinguishes_faults_of_setup_recipient_and_present_state(
    phase: Phase, replies: list[str], outcome: Outcome, own: Outcome | None
) -> None:
    for reply in replies:
        attempt = classify_failure(phase, *split(reply), LOST)
        assert (attempt.outcome, attempt.own) == (outcome, own), reply


@pytest.mark.parametrize(
    ("phase", "own"), [(Phase.RCPT, Outcome.DEFERRED), (Phase.DATA, Outcome.DEFERRED), (Phase.END_OF_DATA, None)]
)
@pytest.mark.parametrize("text", ["4.3.2 Service shutting down", "4.7.0 Message rejected by policy", "closing"])
def test_a_server_that_closes_after_an_email_is_not_closed_by_the_email(
    phase: Phase, own: Outcome | None, text: str
) -> None:
    attempt = classify_failure(phase, 421, text, LOST)
    assert (attempt.outcome, attempt.own) == (Outcome.BUSY, own)


@pytest.mark.parametrize("phase", [Phase.BANNER, Phase.EHLO, Phase.STARTTLS, Phase.AUTH, Phase.MAIL])
def test_before_the_recipient_no_reply_is_specific_to_an_email(phase: Phase) -> None:
    for replies in (SET_UP, POLICY, OWN, LATER):
        for code, text in map(split, replies):
            attempt = classify_failure(phase, code, text, LOST)
            expected = Outcome.BUSY if code < 500 else Outcome.MISCONFIGURED
            if code == 552 and phase is Phase.MAIL:
                expected = Outcome.REJECTED
            assert (attempt.outcome, attempt.own) == (expected, None), text
    lost = classify_failure(phase, None, "connection lost", LOST)
    assert lost.outcome is (Outcome.MISCONFIGURED if phase is Phase.STARTTLS else Outcome.BUSY)


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        (Phase.MAIL, "552 5.3.4 Message size exceeds fixed limit"),
        (Phase.MAIL, "552 too big"),
        (Phase.END_OF_DATA, "552 5.3.4 Error: message file too big"),
        (Phase.RCPT, "552 5.2.3 too large for this mailbox"),
    ],
)
def test_a_reply_that_an_email_is_too_large_is_recognized(phase: Phase, reply: str) -> None:
    attempt = classify_failure(phase, *split(reply), LOST)
    assert (attempt.outcome, attempt.rejection) == (Outcome.REJECTED, Reason.TOO_LARGE)


def test_a_reply_is_shown_without_the_addresses_in_it() -> None:
    reply = "5.7.1 <mila@customer.test>: zoe@customer.test may not receive mail of store@shop.test"
    assert without_addresses(reply) == "5.7.1 <…>: <…> may not receive mail of <…>"


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("<<mila@customer.test>: no", "<<…>: no"),
        ("<x>mila@customer.test no", "<…><…> no"),
        ("to=<mila@customer.test", "to=<<…>"),
        ("mila@customer.test,zoe@customer.test", "<…>"),
        ("@ is no address", "<…> is no address"),
    ],
)
def test_addresses_are_found_in_broken_brackets_too(reply: str, shown: str) -> None:
    assert without_addresses(reply) == shown
