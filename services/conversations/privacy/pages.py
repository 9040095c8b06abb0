"""The pages of an export, in the person's language. They need no server and run no scripts."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from babel.dates import format_date, format_time
from babel.support import NullTranslations
from jinja2 import Environment, PackageLoader

from services.conversations.rules import Status
from shared.file_sizes import format_size
from shared.time_zones import known_zone, zone_label
from shared.translations import TranslatedEnvironment, find_language

_LOCALES: Final = Path(__file__).parent / "locale"


class Pages:
    """Renders the parts of pages for a person."""

    def __init__(self, locales: list[str | None], zones: list[str | None], store_name: str) -> None:
        """Take the first locale and the first zone that are known."""
        language = find_language(_LOCALES, locales)
        self._locale, self.zone = language.locale, known_zone(zones)
        self.gettext = language.translations.gettext
        self._environment = _environment(language.translations)
        self._always = {
            "store_name": store_name,
            "language": str(language.locale).replace("_", "-"),
            "direction": language.locale.text_direction,
            "moment": self._moment,
            "size": lambda size: format_size(size, language.locale),
            "words": _words(language.translations.gettext),
        }

    def render(self, template: str, **values: Any) -> str:
        """Return a part of a page."""
        return self._environment.get_template(template).render(self._always | values)

    def _moment(self, value: datetime | str | None) -> str:
        if value is None:
            return "–"  # noqa: RUF001 - a dash
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        local = moment.astimezone(self.zone)
        day = format_date(local, "long", locale=self._locale)
        return f"{day}, {format_time(local, 'short', locale=self._locale)} {zone_label(local, self._locale)}"


def _words(_: Callable[[str], str]) -> Mapping[str, str]:
    """Return the words for the statuses of conversations and the states of emails."""
    return {
        Status.OPEN: _("Open"),
        Status.AWAITING_ADMIN: _("Waiting for the store"),
        Status.AWAITING_USER: _("Waiting for the customer"),
        Status.RESOLVED: _("Resolved"),
        Status.CLOSED: _("Closed"),
        "scheduled": _("to be sent"),
        "sending": _("being sent"),
        "sent": _("sent"),
        "failed": _("failed"),
        "cancelled": _("not sent, because no longer needed"),
        "suppressed": _("not sent"),
        "bounced": _("did not arrive"),
        "received": _("received"),
        "posted": _("became a message"),
        "held": _("waits for the store"),
        "ignored": _("became no message"),
        "refused": _("refused"),
    }


def local_now(zone: tzinfo) -> datetime:
    """Return the present time in a zone."""
    return datetime.now(UTC).astimezone(zone)


@lru_cache(maxsize=20)
def _environment(translations: NullTranslations) -> Environment:
    environment = TranslatedEnvironment(translations, loader=PackageLoader(__package__))
    environment.filters["path"] = lambda path: quote(path, safe="/")
    return environment
