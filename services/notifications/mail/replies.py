"""What an SMTP reply means: whether the email, the setup or the server's current state is the cause."""

import re

from services.notifications.mail.attempts import BEFORE_FINAL_DOT, BEFORE_RECIPIENT, Attempt, Phase
from services.notifications.rules import Outcome, Reason

MAX_REPLY = 500  # characters
DONE, TRANSIENT, PERMANENT = 2, 4, 5  # the first digit of a reply
START_INPUT, SHUTTING_DOWN, TOO_LARGE = 354, 421, 552

# RFC 4954: authentication or encryption is required, or the credentials are not accepted.
_AUTH_CODES = {530, 534, 535, 538}
# The sender's address; our login and encryption; our SPF, DKIM, DMARC, reverse DNS and volume (RFC 7372, RFC 8617);
# Exchange's codes for relaying, missing login and sending as another user.
_SETUP_STATUS = re.compile(r"[45]\.(1\.[78]|7\.([89]|1[0-4]|2\d|54|57|60))$")
_TOO_LARGE_STATUS = {"5.2.3", "5.3.4"}
# The recipient's mailbox does not exist or accepts no email, regardless of the text.
_RECIPIENT_STATUS = re.compile(r"[45]\.(1\.(1|2|3|6|10)|2\.\d)$")
_STATUS = re.compile(r"(?:^|[\s#(])([245]\.\d{1,3}\.\d{1,3})\b(?!\.\d)")
_ADDRESS = re.compile(r"<[^<>]*>|(?<![^\s<>])[^\s<>@]*+@\S*")  # linear: a reply may have any length
# For servers whose enhanced status code is missing or too general. Postfix also rejects the client, its HELO name and
# the sender at RCPT, and by default relaying with 454.
_SETUP_WORDS = re.compile(
    r"relay(ing)?( access| mail)?( is| was)? (denied|disallowed|not permitted|not allowed|prohibited|refused|rejected"
    r"|forbidden)"
    r"|(not permitted|not allowed|not authori[sz]ed|unable|\brefus\w++|do(es)? not|don't|won't|cannot|can't)"
    r" (to )?relay"
    r"|(not|isn't) (in|on) (my|our|the) list of allowed rcpthosts"
    r"|authentication( is)? (required|needed)|(requires?|need) (smtp )?auth|(not|must be|must) authenticated?\b"
    r"|must (first )?issue (an? )?(auth|starttls)|auth\w* (command )?first|please authenticate|nosmtpauth"
    r"|(tls|encryption)( is)? required|requires? (an? )?(starttls|tls|encryption|encrypted)\b"
    r"|domain name required for sender"
    r"|sender( address)? (rejected|refused|denied|verify failed|verification failed|not allowed|is not allowed)"
    r"|(not|isn't) (allowed|authori[sz]ed|permitted) to (send|use this sender)|not owned by user|sendasdenied"
    r"|client host (rejected|blocked|\[\S+\] blocked)|helo command rejected|(invalid|bad) helo",
    re.IGNORECASE,
)
# Exim and OpenSMTPD reject most emails with these words and no specific code.
_POLICY_WORDS = re.compile(
    r"administrative(ly)? prohibit|(access|permission) denied|invalid recipient|delivery( is)? not allowed"
    r"|(policy|security) (reasons?|violation|restrictions?)"
    r"|black-?\s?list|block-?\s?list|blocked (by|using)|not authori[sz]ed",
    re.IGNORECASE,
)
# Providers' words for an account with an unverified sender or a used-up quota; their codes are not specific. Trial
# accounts may only accept verified recipients, so other emails have to show whether the setup is the cause.
_ACCOUNT_WORDS = re.compile(
    r"(not|isn't|un)[ -]?(yet )?(been )?(verified|validated|confirmed|authenticated)\b|verified sender|sender signature"
    r"|(your account|sending)( \w+){0,4} (paused|suspended|disabled|blocked|deactivated)"
    r"|(sending|sent|relay|outgoing|outbound|daily|hourly|messaging)( \w+){0,3} (limit|quota)"
    r"|exceeded (the|its|your)( \w+)? max(imum)?( \w+)* (emails?|messages|recipients) per |unusual sending activity"
    r"|\b(spf|dkim|dmarc|rbl|dnsbl|rdns)\b|reputation|reverse dns|\bptr record",
    re.IGNORECASE,
)
# Greylisting asks for a retry: neither the email nor the setup is at fault.
_GREYLISTED = re.compile(r"gr[ae]y-?\s?list", re.IGNORECASE)


def classify_failure(phase: Phase, code: int | None, text: str, error: Exception) -> Attempt:
    """Return the attempt for a failure in `phase`; `code` is None if there was no valid SMTP reply."""
    text = one_line(text)
    outcome = _before_recipient(phase, code, error) if phase in BEFORE_RECIPIENT else _of_recipient(phase, code, text)
    if outcome is Outcome.REJECTED and _is_too_large(code, text):
        return Attempt(outcome, phase, code, text, Reason.TOO_LARGE)
    return Attempt(outcome, phase, code, text, own=_own_outcome(outcome, phase, code, text))


def _own_outcome(outcome: Outcome, phase: Phase, code: int | None, text: str) -> Outcome | None:
    """Return the outcome if the email itself turns out to be the cause; None if it can't be.

    A server may answer one recipient with 421, but 421 to an email that it has received is about the server.
    """
    if outcome not in {Outcome.REFUSED, Outcome.BUSY} or phase in BEFORE_RECIPIENT:
        return None
    if outcome is Outcome.BUSY and phase is Phase.END_OF_DATA:
        return None
    permanent = code is not None and code // 100 == PERMANENT
    return Outcome.REJECTED if permanent and not _blames_setup(code, text) else Outcome.DEFERRED


def _before_recipient(phase: Phase, code: int | None, error: Exception) -> Outcome:
    if code == TOO_LARGE and phase is Phase.MAIL:
        return Outcome.REJECTED
    if code is not None and code // 100 == TRANSIENT:
        return Outcome.BUSY
    disconnected = code is None and isinstance(error, OSError)
    # A host that does not answer and TLS that cannot be verified are setup faults, not temporary.
    return Outcome.BUSY if disconnected and phase not in {Phase.CONNECT, Phase.STARTTLS} else Outcome.MISCONFIGURED


def is_busy_reply(phase: str | None, code: int | None) -> bool:
    """Return whether the reply that opened the breaker means a busy server, not a setup fault."""
    return code == SHUTTING_DOWN or (phase in BEFORE_RECIPIENT and code is not None and code // 100 == TRANSIENT)


def _of_recipient(phase: Phase, code: int | None, text: str) -> Outcome:
    digit = code // 100 if code is not None else None
    if code == SHUTTING_DOWN:
        return Outcome.BUSY
    if digit == PERMANENT:
        return Outcome.REFUSED if is_policy(code, text) else Outcome.REJECTED
    if digit == TRANSIENT:
        return Outcome.REFUSED if _blames_setup(code, text) else Outcome.DEFERRED
    return Outcome.UNCERTAIN if phase is Phase.END_OF_DATA else Outcome.DEFERRED


def is_policy(code: int | None, text: str) -> bool:
    """Return whether a permanent refusal is about the sender, our setup or a policy, and not about a mailbox."""
    status, words = enhanced_status(text), _ADDRESS.sub(" ", text)
    if status is None and _POLICY_WORDS.search(words):
        return True
    if (status is None or not _RECIPIENT_STATUS.match(status)) and _ACCOUNT_WORDS.search(words):
        return True
    return (status or "").startswith("5.7.") or _blames_setup(code, text)


def _blames_setup(code: int | None, text: str) -> bool:
    """Return whether a refusal says that the sender, this client or its login is not accepted.

    5.7.x alone is not enough: it may be the policy of one recipient.
    """
    status = enhanced_status(text)
    if status is not None and _RECIPIENT_STATUS.match(status):
        return False
    words = _ADDRESS.sub(" ", text)  # an address may contain any of the words
    if _GREYLISTED.search(words):
        return False
    by_code = code in _AUTH_CODES or (status is not None and _SETUP_STATUS.match(status) is not None)
    return by_code or _SETUP_WORDS.search(" ".join(words.split())) is not None


def enhanced_status(text: str) -> str | None:
    """Return the enhanced status code (RFC 3463) at the beginning of a reply or in brackets."""
    match = _STATUS.search(_ADDRESS.sub(" ", text))
    return match[1] if match else None


def _is_too_large(code: int | None, text: str) -> bool:
    status = enhanced_status(text)
    return status in _TOO_LARGE_STATUS or (code == TOO_LARGE and status is None)


def was_idle_disconnect(result: Attempt) -> bool:
    """Return whether the server or the network may just have closed an idle connection."""
    disconnected = result.code is None or result.code == SHUTTING_DOWN
    return result.outcome in {Outcome.DEFERRED, Outcome.BUSY} and result.phase in BEFORE_FINAL_DOT and disconnected


def can_reset(result: Attempt) -> bool:
    """Return whether the server waits for the next command, so that RSET makes the connection usable again."""
    if result.outcome is Outcome.ABANDONED or result.phase in {Phase.ADDRESS, Phase.SIZE}:
        return True
    replied = result.code is not None and result.code != SHUTTING_DOWN
    in_mail = result.phase in BEFORE_FINAL_DOT or result.phase is Phase.END_OF_DATA
    failed = result.outcome in {Outcome.REJECTED, Outcome.DEFERRED, Outcome.REFUSED, Outcome.BUSY}
    return replied and in_mail and failed


def without_addresses(text: str) -> str:
    """Return a reply without the addresses that it quotes."""
    return _ADDRESS.sub("<…>", text)


def one_line(text: str) -> str:
    """Return a reply as one line of at most 500 characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_REPLY]
