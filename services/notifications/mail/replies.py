"""What an SMTP server's reply means: whether the email, the set-up or the server's present state is the cause."""

import re

from services.notifications.mail.attempts import BEFORE_RECIPIENT, BEFORE_THE_DOT, Attempt, Phase
from services.notifications.rules import Outcome, Reason

MAX_REPLY = 500  # characters
DONE, TRY_AGAIN, PERMANENT = 2, 4, 5  # the first digit of a reply
START_INPUT, SHUTTING_DOWN, TOO_LARGE = 354, 421, 552

# RFC 4954: authentication or encryption is required, or the credentials are not accepted.
_AUTH_CODES = {530, 534, 535, 538}
# The sender's address; our login and encryption; our SPF, DKIM, DMARC, reverse name and volume (RFC 7372, RFC 8617);
# and Exchange's codes for relaying, no login and sending as somebody else.
_SET_UP_STATUS = re.compile(r"[45]\.(1\.[78]|7\.([89]|1[0-4]|2\d|54|57|60))$")
_TOO_LARGE_STATUS = {"5.2.3", "5.3.4"}
# The recipient's mailbox does not exist or takes nothing, however the text goes on.
_RECIPIENT_STATUS = re.compile(r"[45]\.(1\.(1|2|3|6|10)|2\.\d)$")
_STATUS = re.compile(r"(?:^|[\s#(])([245]\.\d{1,3}\.\d{1,3})\b(?!\.\d)")
_ADDRESS = re.compile(r"<[^<>]*>|(?<![^\s<>])[^\s<>@]*+@\S*")  # in linear time: a reply may be of any length
# Servers that send no enhanced status code, or one that says too little, say it in words. Postfix refuses the client,
# its HELO name and the sender at RCPT too, and by default a relay with 454.
_SET_UP_WORDS = re.compile(
    r"relay(ing)?( access| mail)?( is| was)? (denied|disallowed|not permitted|not allowed|prohibited|refused|rejected"
    r"|forbidden)"
    r"|(not permitted|not allowed|not authori[sz]ed|unable|\brefus\w++|do(es)? not|don't|won't|cannot|can't)"
    r" (to )?relay"
    r"|(not|isn't) (in|on) (my|our|the) list of allowed rcpthosts"
    r"|authentication( is)? (required|needed)|(requires?|need) (smtp )?auth|(not|must be|must) authenticated?\b"
    r"|must (first )?issue an? (auth|starttls)|auth\w* (command )?first"
    r"|sender( address)? (rejected|refused|denied|verify failed|verification failed|not allowed|is not allowed)"
    r"|(not|isn't) (allowed|authori[sz]ed|permitted) to (send|use this sender)|not owned by user|sendasdenied"
    r"|client host (rejected|blocked|\[\S+\] blocked)|helo command rejected|(invalid|bad) helo",
    re.IGNORECASE,
)
# Exim's and OpenSMTPD's words for most of what they refuse, without a code that says why.
_POLICY_WORDS = re.compile(
    r"administrative(ly)? prohibit|access denied|invalid recipient|(policy|security) (reasons?|violation|restrictions?)"
    r"|black-?\s?list|block-?\s?list|blocked (by|using)|not authori[sz]ed",
    re.IGNORECASE,
)
# What providers say of an account: its sender is not confirmed, or it has sent all that it may. Their codes, if any,
# tell little, and in a trial some accept confirmed recipients only: other mail shows whose fault it is.
_ACCOUNT_WORDS = re.compile(
    r"(not|isn't|un)[ -]?(yet )?(been )?(verified|validated|confirmed|authenticated)\b|verified sender|sender signature"
    r"|(your account|sending)( \w+){0,4} (paused|suspended|disabled|blocked|deactivated)"
    r"|(sending|sent|relay|outgoing|outbound|daily|hourly|messaging)( \w+){0,3} (limit|quota)"
    r"|exceeded (the|its|your)( \w+)? max(imum)?( \w+)* (emails?|messages|recipients) per |unusual sending activity"
    r"|\b(spf|dkim|dmarc|rbl|dnsbl)\b|reverse dns|\bptr record",
    re.IGNORECASE,
)
# Asking to come back is how greylisting works: a fault of nobody.
_GREYLISTED = re.compile(r"gr[ae]y-?\s?list", re.IGNORECASE)


def judge(phase: Phase, code: int | None, text: str, error: Exception) -> Attempt:
    """Say what a failure in `phase` means; `code` is None when there was no reply, or none of SMTP."""
    text = one_line(text)
    outcome = _before_recipient(phase, code, error) if phase in BEFORE_RECIPIENT else _of_recipient(phase, code, text)
    if outcome is Outcome.REJECTED and _is_too_large(code, text):
        return Attempt(outcome, phase, code, text, Reason.TOO_LARGE)
    own = None
    if phase not in BEFORE_RECIPIENT and outcome in {Outcome.REFUSED, Outcome.BUSY}:
        permanent = code is not None and code // 100 == PERMANENT
        own = Outcome.REJECTED if permanent and not names_set_up(code, text) else Outcome.DEFERRED
    return Attempt(outcome, phase, code, text, own=own)


def _before_recipient(phase: Phase, code: int | None, error: Exception) -> Outcome:
    if code == TOO_LARGE and phase is Phase.MAIL:
        return Outcome.REJECTED
    if code is not None and code // 100 == TRY_AGAIN:
        return Outcome.BUSY
    broke = code is None and isinstance(error, OSError)
    # A host that does not answer, and TLS that cannot be verified, are no passing state.
    return Outcome.BUSY if broke and phase not in {Phase.CONNECT, Phase.STARTTLS} else Outcome.MISCONFIGURED


def says_busy(phase: str | None, code: int | None) -> bool:
    """Tell whether what opened the breaker was the server's present state, and not the set-up."""
    return code == SHUTTING_DOWN or (phase in BEFORE_RECIPIENT and code is not None and code // 100 == TRY_AGAIN)


def _of_recipient(phase: Phase, code: int | None, text: str) -> Outcome:
    digit = code // 100 if code is not None else None
    if code == SHUTTING_DOWN:
        return Outcome.BUSY
    if digit == PERMANENT:
        return Outcome.REFUSED if _is_policy(code, text) else Outcome.REJECTED
    if digit == TRY_AGAIN:
        return Outcome.REFUSED if names_set_up(code, text) else Outcome.DEFERRED
    return Outcome.UNCERTAIN if phase is Phase.END_OF_DATA else Outcome.DEFERRED


def _is_policy(code: int | None, text: str) -> bool:
    status, words = enhanced_status(text), _ADDRESS.sub(" ", text)
    if status is None and _POLICY_WORDS.search(words):
        return True
    if (status is None or not _RECIPIENT_STATUS.match(status)) and _ACCOUNT_WORDS.search(words):
        return True
    return (status or "").startswith("5.7.") or names_set_up(code, text)


def names_set_up(code: int | None, text: str) -> bool:
    """Tell whether a refusal says that the sender, this client or its login is not accepted.

    5.7.x alone does not: it may be the policy of one recipient as well.
    """
    status = enhanced_status(text)
    if status is not None and _RECIPIENT_STATUS.match(status):
        return False
    words = _ADDRESS.sub(" ", text)  # what a person chose as their address says nothing
    if _GREYLISTED.search(words):
        return False
    named = code in _AUTH_CODES or (status is not None and _SET_UP_STATUS.match(status) is not None)
    return named or _SET_UP_WORDS.search(" ".join(words.split())) is not None


def enhanced_status(text: str) -> str | None:
    """Return the enhanced status code (RFC 3463) that a reply begins with, or names in brackets."""
    found = _STATUS.search(_ADDRESS.sub(" ", text))
    return found[1] if found else None


def _is_too_large(code: int | None, text: str) -> bool:
    status = enhanced_status(text)
    return status in _TOO_LARGE_STATUS or (code == TOO_LARGE and status is None)


def was_hung_up(result: Attempt) -> bool:
    """Tell whether the server, or something on the way, had given up an idle connection: no one's fault."""
    hung_up = result.code is None or result.code == SHUTTING_DOWN
    return result.outcome in {Outcome.DEFERRED, Outcome.BUSY} and result.phase in BEFORE_THE_DOT and hung_up


def ended_in_order(result: Attempt) -> bool:
    """Tell whether the server waits for the next command, and RSET makes it forget this mail."""
    if result.outcome is Outcome.ABANDONED or result.phase in {Phase.ADDRESS, Phase.SIZE}:
        return True
    answered = result.code is not None and result.code != SHUTTING_DOWN
    in_a_mail = result.phase in BEFORE_THE_DOT or result.phase is Phase.END_OF_DATA
    return (
        answered and in_a_mail and result.outcome in {Outcome.REJECTED, Outcome.DEFERRED, Outcome.REFUSED, Outcome.BUSY}
    )


def without_addresses(text: str) -> str:
    """Return a reply as it may be shown to anybody: servers quote the addresses that they speak of."""
    return _ADDRESS.sub("<…>", text)


def one_line(text: str) -> str:
    """Return a reply as one line of at most 500 characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_REPLY]
