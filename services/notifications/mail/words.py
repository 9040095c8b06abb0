"""The fixed words of a mail in each language, and its times. What has no translation is in English."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time, get_timezone_gmt, get_timezone_name

ENGLISH = Locale("en")


@dataclass(frozen=True, slots=True)
class Words:
    """What a mail says besides the messages. `{store}` and `{customer}` stand for names."""

    store_wrote: str
    customer_wrote: str
    answers_not_read: str
    """Without a Reply-To, to a customer; the link follows."""
    answers_not_forwarded: str
    """To support: an answer by mail never reaches the customer; the link follows."""
    open_conversation: str
    why: str


WORDS = {
    "en": Words(
        store_wrote="{store} has written to you",
        customer_wrote="{customer} has written to {store}",
        answers_not_read="Please do not reply to this email: replies by email are not read. To answer, "
        "open your conversation:",
        answers_not_forwarded="Replies to this email do not reach the customer. To answer, open the conversation:",
        open_conversation="View and answer",
        why="You receive this email because of your conversation with {store}.",
    ),
    "de": Words(
        store_wrote="{store} hat Ihnen geschrieben",
        customer_wrote="{customer} hat an {store} geschrieben",
        answers_not_read="Bitte antworten Sie nicht auf diese E-Mail: Antworten per E-Mail werden nicht "
        "gelesen. Zum Antworten öffnen Sie Ihre Unterhaltung:",
        answers_not_forwarded="Antworten auf diese E-Mail erreichen den Kunden nicht. Zum Antworten "
        "öffnen Sie die Unterhaltung:",
        open_conversation="Ansehen und antworten",
        why="Sie erhalten diese E-Mail wegen Ihrer Unterhaltung mit {store}.",
    ),
    "fr": Words(
        store_wrote="{store} vous a écrit",
        customer_wrote="{customer} a écrit à {store}",
        answers_not_read="Merci de ne pas répondre à cet e-mail : les réponses par e-mail ne sont pas "
        "lues. Pour répondre, ouvrez votre conversation :",
        answers_not_forwarded="Les réponses à cet e-mail ne parviennent pas au client. Pour répondre, "
        "ouvrez la conversation :",
        open_conversation="Voir et répondre",
        why="Vous recevez cet e-mail en raison de votre conversation avec {store}.",
    ),
    "es": Words(
        store_wrote="{store} le ha escrito",
        customer_wrote="{customer} ha escrito a {store}",
        answers_not_read="Por favor, no responda a este correo: las respuestas por correo no se leen. "
        "Para responder, abra su conversación:",
        answers_not_forwarded="Las respuestas a este correo no llegan al cliente. Para responder, "
        "abra la conversación:",
        open_conversation="Ver y responder",
        why="Recibe este correo por su conversación con {store}.",
    ),
    "nl": Words(
        store_wrote="{store} heeft u geschreven",
        customer_wrote="{customer} heeft {store} geschreven",
        answers_not_read="Beantwoord deze e-mail niet: antwoorden per e-mail worden niet gelezen. Open uw "
        "gesprek om te antwoorden:",
        answers_not_forwarded="Antwoorden op deze e-mail bereiken de klant niet. Open het gesprek om te antwoorden:",
        open_conversation="Bekijken en antwoorden",
        why="U ontvangt deze e-mail vanwege uw gesprek met {store}.",
    ),
}


def known_locales(names: Iterable[str | None]) -> list[Locale]:
    """Return those of `names` (`de`, `de-AT`, `pt_BR`) that exist, in order, and English last."""
    locales = []
    for name in names:
        try:
            locales.append(Locale.parse((name or "").replace("-", "_")))
        except (ValueError, UnknownLocaleError):
            continue
    return [*locales, ENGLISH]


def words_for(locales: Iterable[Locale]) -> tuple[Locale, Words]:
    """Return the first of `locales` that has words, and these: words and dates are of one language."""
    locale = next((locale for locale in locales if locale.language in WORDS), ENGLISH)
    return locale, WORDS[locale.language]


def known_zone(names: Iterable[str | None]) -> tzinfo:
    """Return the first of `names` that is a time zone, or UTC."""
    for name in names:
        try:
            return ZoneInfo(name or "")
        except (KeyError, ValueError, OSError):  # not found; not a key; a directory of the database
            continue
    return UTC


def format_moment(moment: datetime, locale: Locale, zone: tzinfo) -> str:
    """Write a moment as a reader of `locale` in `zone` would, with the zone's short name."""
    local = moment.astimezone(zone)
    date, time = format_date(local, "medium", locale), format_time(local, "short", locale=locale)
    zone_name = get_timezone_name(local, width="short", locale=locale)
    if not zone_name.isalpha():  # most languages have short names for their own zones only
        zone_name = get_timezone_gmt(local, "long", locale=locale)
    return f"{date}, {time} {zone_name}"
