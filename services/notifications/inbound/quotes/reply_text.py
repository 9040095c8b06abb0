"""Read an email: what its sender wrote, without what they quote of ours, and the files that belong to it."""

from collections.abc import Sequence

from services.notifications.inbound.parsing.html_text import html_lines
from services.notifications.inbound.parsing.lines import Line, plain_lines
from services.notifications.inbound.parsing.mime import ParsedEmail, TextPart
from services.notifications.inbound.quotes.folding import Cut, cut
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.own_words import own_words
from services.notifications.mail.fingerprints import Fingerprints


def read_text(email: ParsedEmail, ours: Fingerprints, known: Known) -> Cut:
    """Return what the sender wrote."""
    return cut(lines_of(email.texts), ours, known)


def read_own_words(email: ParsedEmail, ours: Fingerprints, known: Known) -> str | None:
    """Return what an admin wrote, for a customer; None if it is not certain that nothing else is left."""
    attached = any(file.content_type.startswith("message/") for file in email.files)
    return None if attached or email.incomplete else own_words(lines_of(email.texts), ours, known)


def lines_of(texts: Sequence[TextPart]) -> list[Line]:
    """Return the lines of the texts of an email."""
    lines: list[Line] = []
    for part in texts:
        if lines:
            lines.append(Line(""))
        if part.is_html:
            lines += html_lines(part.text)
        else:
            lines += plain_lines(part.text, flowed=part.flowed, joined=part.joined)
    return lines
