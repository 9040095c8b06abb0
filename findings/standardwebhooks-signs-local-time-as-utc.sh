#!/bin/sh
# standardwebhooks 1.1.0 (Python): `Webhook.sign` takes a datetime and replaces its time zone by UTC instead of converting
# it. For an aware datetime of another zone it signs a timestamp that is hours off, which is not the moment that a sender
# puts into the header `webhook-timestamp`, so every receiver refuses the signature.
# Expected: the same signature for the same moment in any zone.
# The script fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check standardwebhooks==1.1.0
cat > "$folder/sign.py" <<'PY'
from datetime import datetime, timedelta, timezone

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
moment = datetime.now(timezone.utc)
in_vienna = moment.astimezone(timezone(timedelta(hours=1)))
assert moment == in_vienna


def is_accepted(signature):
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
    }
    try:
        webhook.verify("{}", headers)
    except WebhookVerificationError:
        return False
    return True


utc, vienna = (is_accepted(webhook.sign("msg_1", one, "{}")) for one in (moment, in_vienna))
print("signed with the moment in UTC:", utc, "| with the same moment one hour east:", vienna)
assert (utc, vienna) == (True, False), "sign() converts the zone now"
PY
"$folder/venv/bin/python" "$folder/sign.py"
