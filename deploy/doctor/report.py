"""Run the checks of each area, and print what they found."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import typer

from deploy.doctor import broker, databases, event_feed, file_store, mail, mailbox, proxy, settings, sign_in
from deploy.doctor.findings import Area, Finding, Severity, fault
from shared.settings import SettingsError
from shared.text import printable

Check = Callable[[], Awaitable[Sequence[Finding]]]
CHECKS: Final[Mapping[Area, Check]] = MappingProxyType(
    {
        Area.SETTINGS: settings.check,
        Area.DATABASES: databases.check,
        Area.BROKER: broker.check,
        Area.FILES: file_store.check,
        Area.FEED: event_feed.check,
        Area.SIGN_IN: sign_in.check,
        Area.MAIL: mail.check,
        Area.MAILBOX: mailbox.check,
        Area.PROXY: proxy.check,
    }
)
TIME_LIMIT = 60  # seconds for an area
_COLUMNS = "{:<11}{:<9}{}"


def examine(areas: Collection[Area], *, as_json: bool, embed: Check | None = None) -> Severity:
    """Check these areas; print the findings, and return the highest severity. `embed` checks the area of that name."""
    found: list[tuple[Area, Finding]] = []
    checks = CHECKS if embed is None else {**CHECKS, Area.EMBED: embed}
    for area in filter(areas.__contains__, checks):
        for finding in asyncio.run(_check(checks[area])):
            found.append((area, finding))
            if not as_json:
                for line in _lines(area, finding):
                    typer.echo(line)
    worst = max((finding.severity for _, finding in found), default=Severity.OK)
    typer.echo(_json(found, worst) if as_json else _summary(found))
    return worst


async def _check(check: Check) -> Sequence[Finding]:
    """Run an area's checks. An error in one area does not stop the others."""
    try:
        async with asyncio.timeout(TIME_LIMIT):
            return await check()
    except TimeoutError:
        return [
            fault(f"Not finished within {TIME_LIMIT} s.", "Check whether a firewall drops the packets to a server.")
        ]
    except SettingsError as error:
        return [fault(f"{error}.", "Correct the setting.")]
    except Exception as error:  # noqa: BLE001 - its text may contain a secret
        return [fault(f"The check failed: {type(error).__name__}.", "Report this as a bug of chats doctor.")]


def _lines(area: Area, finding: Finding) -> Iterator[str]:
    """Yield a finding's lines. Servers chose some of the text, so control characters are replaced."""
    yield _COLUMNS.format(area, finding.severity.name.lower(), printable(finding.text))
    for line in (finding.advice or "").splitlines():
        yield _COLUMNS.format("", "", printable(line))


def _summary(found: Sequence[tuple[Area, Finding]]) -> str:
    counts = {
        severity: sum(finding.severity == severity for _, finding in found)
        for severity in (Severity.FAULT, Severity.WARNING)
    }
    if not any(counts.values()):
        return "No faults, no warnings."
    return ", ".join(
        f"{count} {severity.name.lower()}{'s' * (count > 1)}" for severity, count in counts.items() if count
    )


def _json(found: Sequence[tuple[Area, Finding]], worst: Severity) -> str:
    findings = [
        {"area": area, **finding._asdict(), "severity": finding.severity.name.lower()} for area, finding in found
    ]
    return json.dumps({"severity": worst.name.lower(), "findings": findings}, indent=2)
