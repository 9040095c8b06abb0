"""Read an email: what its sender wrote, without what they quote of ours, and the files that belong to it."""

from collections.abc import Sequence

from services.notifications.inbound.cutting import Cut, cut
from services.notifications.inbound.html_text import html_lines
from services.notifications.inbound.introductions import Known
from services.notifications.inbound.lines import Line, plain_lines
from services.notifications.inbound.mime import ParsedEmail, TextPart
from services.notifications.mail.fingerprints import Fingerprints


def read_text(email: ParsedEmail, ours: Fingerprints, known: Known) -> Cut:
    """Return what the sender wrote."""
    return cut(_lines(email.texts), ours, known)


def _lines(texts: Sequence[TextPart]) -> list[Line]:
    lines: list[Line] = []
    for part in texts:
        if lines:
            lines.append(Line(""))
        if part.is_html:
            lines += html_lines(part.text)
        else:
            lines += plain_lines(part.text, flowed=part.flowed, joined=part.joined)
    return lines
