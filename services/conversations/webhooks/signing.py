"""Secrets and signatures of webhooks, as the Standard Webhooks specification has them."""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


def make_secret() -> str:
    """Return a new secret, in standard base64: libraries disagree about the URL-safe alphabet."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(keys: Sequence[str], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature for each secret, separated by spaces.

    `timestamp` is the header `webhook-timestamp`, in seconds since 1970.
    """
    moment = datetime.fromtimestamp(timestamp, UTC)  # in UTC: the library would take another zone's clock for it
    return " ".join(Webhook(key).sign(event_id, moment, body.decode()) for key in keys)
