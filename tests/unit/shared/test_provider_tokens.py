"""Tokens signed with an identity provider's key, and attempts to forge them."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.auth.claims import put_claim
from shared.auth.principal import Principal
from shared.auth.tokens import verify_session_token, verify_token
from shared.problems import TokenRefused, Unauthenticated
from shared.settings import Role, SettingsError, TokenSettings
from tests.helpers.identity_provider import ALGORITHMS, forged, private_key, public_jwk, signed

SECRET = "a secret for tests, of 32 bytes or more"
KEYS_URL = "http://id.test/keys"
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def published(algorithm: str, name: str = "") -> jwt.PyJWK:
    return jwt.PyJWK(public_jwk(private_key(algorithm, name)))


def settings(**changes: Any) -> TokenSettings:
    return TokenSettings(auth_jwks_url=KEYS_URL, **{"auth_secret": [SECRET]} | changes)


def valid(algorithm: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return signed(private_key(algorithm), algorithm, headers, **changes)


def refused(token: str, key: jwt.PyJWK | None, **changes: Any) -> str:
    with pytest.raises(TokenRefused) as error:
        verify_token(token, settings(**changes), key)
    return error.value.reason


@each_algorithm
def test_a_token_signed_with_the_key_identifies_the_caller(algorithm: str) -> None:
    token = valid(algorithm, sub="b/2", role="admin", name="Ben")
    assert verify_token(token, settings(auth_secret=[]), published(algorithm)) == Principal(
        "b/2", Role.ADMIN, name="Ben"
    )


@each_algorithm
def test_a_token_of_another_key_of_the_same_type_is_rejected(algorithm: str) -> None:
    assert refused(valid(algorithm), published(algorithm, "another")) == "bad_signature"


@each_algorithm
def test_a_signature_is_valid_only_for_its_own_content(algorithm: str) -> None:
    head, _, signature = valid(algorithm).split(".")
    payload = valid(algorithm, sub="ben").split(".")[1]
    for other in (f"{head}.{payload}.{signature}", f"{head}.{payload}.", f"{head}.{payload}.{'A' * len(signature)}"):
        refused(other, published(algorithm))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        *((algorithm, private_key(algorithm)) for algorithm in (*ALGORITHMS, "ES384")),
        *((algorithm, private_key("RS256")) for algorithm in ("RS384", "RS512", "PS256", "PS512")),
        *((algorithm, SECRET * 2) for algorithm in ("HS256", "HS384", "HS512")),
        ("none", ""),
    ],
)
def test_a_key_is_used_only_with_its_own_algorithm(algorithm: str, key: Any) -> None:
    for other in {*ALGORITHMS} - {algorithm}:
        refused(signed(key, algorithm), published(other))


@each_algorithm
@pytest.mark.parametrize("shape", ["pem", "der", "raw", "jwk", "jwks"])
def test_a_public_key_does_not_work_as_a_secret(algorithm: str, shape: str) -> None:
    public = private_key(algorithm).public_key()
    raw = (Encoding.Raw, PublicFormat.Raw) if algorithm == "EdDSA" else (Encoding.PEM, PublicFormat.PKCS1)
    raw = (Encoding.X962, PublicFormat.UncompressedPoint) if algorithm == "ES256" else raw
    encodings: dict[str, bytes] = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "raw": public.public_bytes(*raw),
        "jwk": json.dumps(public_jwk(private_key(algorithm))).encode(),
        "jwks": json.dumps({"keys": [public_jwk(private_key(algorithm))]}).encode(),
    }
    for claimed in ("HS256", algorithm):
        token = forged({"alg": claimed}, lambda content: hmac.digest(encodings[shape], content, hashlib.sha256))
        for key in (published(algorithm), None):
            refused(token, key)
            refused(token, key, auth_secret=[])


@each_algorithm
def test_a_token_signed_with_the_secret_is_not_one_of_the_provider(algorithm: str) -> None:
    by_secret = signed(SECRET, "HS256")
    assert verify_token(by_secret, settings()).id == "anna"
    refused(by_secret, published(algorithm))
    refused(by_secret, None, auth_secret=[])
    refused(valid(algorithm), None)
    refused(forged({"alg": algorithm}, lambda content: hmac.digest(SECRET.encode(), content, "sha256")), None)


@each_algorithm
def test_a_providers_token_is_no_session_token(algorithm: str) -> None:
    token = valid(algorithm, sid=str(UUID(int=1)), csrf="x")
    with pytest.raises(Unauthenticated):
        verify_session_token(token, settings())
    with pytest.raises(Unauthenticated):
        verify_session_token(token, settings(), may_be_expired=True)
    assert refused(token, published(algorithm)) == "malformed"


@each_algorithm
@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp"]},
        {"crit": ["https://id.test/ext"], "https://id.test/ext": 1},
        {"crit": []},
        {"crit": "b64"},
        {"crit": [7]},
        {"crit": None},
    ],
)
def test_a_token_with_unknown_critical_headers_is_rejected(algorithm: str, headers: dict[str, Any]) -> None:
    token = forged({"alg": algorithm, **headers}, lambda content: sign(algorithm, content))
    assert refused(token, published(algorithm)) == "malformed"


@each_algorithm
def test_a_token_with_an_unencoded_payload_is_rejected(algorithm: str) -> None:
    header = {"alg": algorithm, "b64": False, "crit": ["b64"]}
    refused(forged(header, lambda content: sign(algorithm, content)), published(algorithm))


@each_algorithm
def test_a_key_inside_a_tokens_headers_is_ignored(algorithm: str) -> None:
    own = private_key(algorithm, "another")
    headers = {
        "jwk": public_jwk(own),
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/chain.pem",
        "x5c": ["MIIB"],
    }
    refused(signed(own, algorithm, headers), published(algorithm))
    assert verify_token(valid(algorithm, headers), settings(), published(algorithm)).id == "anna"


@each_algorithm
def test_clocks_may_differ_by_half_a_minute(algorithm: str) -> None:
    now, key = datetime.now(UTC), published(algorithm)
    verify_token(valid(algorithm, exp=now - timedelta(seconds=20)), settings(), key)
    verify_token(valid(algorithm, iat=now + timedelta(seconds=20)), settings(), key)
    assert refused(valid(algorithm, exp=now - timedelta(seconds=40)), key) == "expired"
    refused(valid(algorithm, iat=now + timedelta(seconds=40)), key)


@each_algorithm
@pytest.mark.parametrize("name", ["sub", "iat", "exp", "aud", "role"])
def test_a_token_without_a_required_claim_is_rejected(algorithm: str, name: str) -> None:
    missing: dict[str, Any] = {name: None}
    refused(valid(algorithm, **missing), published(algorithm))


@each_algorithm
def test_audience_and_issuer_must_match_the_settings(algorithm: str) -> None:
    key, issuer = published(algorithm), "https://id.test"
    token = valid(algorithm, aud=["shop", "chats"], iss=issuer)
    assert verify_token(token, settings(auth_issuer=issuer), key).id == "anna"
    refused(valid(algorithm, aud=["shop"]), key)
    for other in (None, "", issuer + "/", "https://evil.test"):
        refused(valid(algorithm, iss=other), key, auth_issuer=issuer)


def test_roles_are_read_and_mapped_as_in_any_token() -> None:
    shape = {"auth_role_claim": "realm_access.roles", "auth_role_map": "support=admin"}
    token = valid("RS256", role=None, realm_access={"roles": ["offline_access", "support"]})
    assert verify_token(token, settings(**shape), published("RS256")).role is Role.ADMIN
    assert refused(valid("RS256"), published("RS256"), **shape) == "missing_claim"


@each_algorithm
def test_a_token_that_is_too_large_is_rejected_no_matter_who_signed_it(algorithm: str) -> None:
    key = published(algorithm)
    assert verify_token(valid(algorithm, groups=["x" * 8_000]), settings(), key).id == "anna"
    assert refused(valid(algorithm, groups=["x" * 16_000]), key) == "malformed"
    refused(signed(SECRET, "HS256", groups=["x" * 16_000]), None)


def sign(algorithm: str, content: bytes) -> bytes:
    jwt_algorithm: Any = jwt.get_algorithm_by_name(algorithm)
    signature: bytes = jwt_algorithm.sign(content, private_key(algorithm))
    return signature


def test_a_claim_cannot_be_put_into_one_that_is_no_object() -> None:
    with pytest.raises(
        SettingsError, match=r"the claim role\.permissions cannot be set, because role is another claim"
    ):
        put_claim({"role": "admin"}, "role.permissions", ["delete"])
