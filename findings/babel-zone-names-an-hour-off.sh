#!/bin/sh
# Babel 2.18.0 with tzdata 2026.6: short zone names that say another offset than the clock has.
#
# 1. Europe/Dublin in en_IE. Seen: "IST" in January (UTC+0) and "GMT" in July (UTC+1). Expected: the other way round.
#    get_timezone_name asks tzinfo.dst(), which is -1 hour in Irish winters, and takes any value but 0 for summer.
# 2. Europe/Athens in fr. Seen: "EEST" in January (UTC+2), which everywhere else is the name of UTC+3. Expected: "EET",
#    or the offset. It is in CLDR's French data, for the zones of Lisbon ("WEST" at UTC+0) as well.
#
# Fails if either has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install babel==2.18.0 tzdata==2026.6
PYTHONTZPATH="" "$folder/venv/bin/python" - <<'PYTHON'
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from babel.dates import get_timezone_name


def names(zone, locale):
    moments = [datetime(2026, month, 15, 12, tzinfo=UTC).astimezone(ZoneInfo(zone)) for month in (1, 7)]
    return [(get_timezone_name(moment, "short", locale=locale), str(moment.utcoffset())) for moment in moments]


dublin, athens, lisbon = names("Europe/Dublin", "en_IE"), names("Europe/Athens", "fr"), names("Europe/Lisbon", "fr")
print(dublin, athens, lisbon)
assert dublin == [("IST", "0:00:00"), ("GMT", "1:00:00")]
assert athens[0] == ("EEST", "2:00:00")
assert lisbon[0] == ("WEST", "0:00:00")
PYTHON
