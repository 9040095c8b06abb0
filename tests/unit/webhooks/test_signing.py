"""Signatures that libraries of the specification verify."""

import base64
import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.conversations.webhooks.signing import make_secret, sign

BODY = '{"type":"message.posted","data":{"body":"Grüße 👋"}}'.encode()


def headers(secrets: list[str], *, moment: datetime | None = None, body: bytes = BODY) -> dict[str, str]:
    timestamp = int((moment or datetime.now(UTC)).timestamp())
    return {
        "webhook-id": "event",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, "event", timestamp, body),
    }


def test_a_secret_is_random_and_in_standard_base64() -> None:
    secret = make_secret()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert secret != make_secret()


def test_the_specifications_own_example_has_its_signature() -> None:
    # https://github.com/standard-webhooks/standard-webhooks: the test vector of its libraries.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_the_python_library_verifies_either_secret_while_both_sign_and_nothing_else() -> None:
    old, new = make_secret(), make_secret()
    signed = headers([new, old])
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, signed) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(make_secret()).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(BODY + b" ", signed)
