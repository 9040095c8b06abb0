"""What a check found, and what the operator should do about it."""

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Area(StrEnum):
    """What can be checked by itself, in the order of the report."""

    SETTINGS = "settings"
    DATABASES = "databases"
    BROKER = "broker"
    FILES = "files"
    FEED = "feed"
    SIGN_IN = "sign-in"
    MAIL = "mail"
    MAILBOX = "mailbox"
    PROXY = "proxy"
    EMBED = "embed"
    """A store's page and token; only checked if named, with what to check."""


class Severity(IntEnum):
    """How bad a finding is. The command exits with the highest: 0 for `OK` and `NOTE`, then 1 and 2."""

    OK = 0
    NOTE = 1
    """Nothing is wrong, or something could not be checked here."""
    WARNING = 2
    """It works, but something is missing or will fail one day."""
    FAULT = 3
    """Something does not work."""

    @property
    def exit_code(self) -> int:
        """The exit code, as monitoring plugins use it."""
        return max(self - Severity.NOTE, 0)


class Finding(NamedTuple):
    """A result of a check: what was found and, if something is to do, what."""

    severity: Severity
    text: str
    advice: str | None = None


def ok(text: str) -> Finding:
    """Return a finding that is fine."""
    return Finding(Severity.OK, text)


def note(text: str, advice: str | None = None) -> Finding:
    """Return a finding that needs no action."""
    return Finding(Severity.NOTE, text, advice)


def warning(text: str, advice: str) -> Finding:
    """Return a finding that an operator should act on."""
    return Finding(Severity.WARNING, text, advice)


def fault(text: str, advice: str) -> Finding:
    """Return a finding that an operator must act on."""
    return Finding(Severity.FAULT, text, advice)
