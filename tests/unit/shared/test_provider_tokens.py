"""Tokens that are signed with a key of the identity provider, and the ways to pass off others as such."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.auth import Principal, Role, verify_session_token, verify_token
from shared.problems import TokenRefused, Unauthenticated
from shared.settings import TokenSettings
from tests.helpers.identity_provider import ALGORITHMS, forged, private_key, public_jwk, signed

SECRET = "a secret for tests, of 32 bytes or more"
KEYS_URL = "http://id.test/keys"
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def published(algorithm: str, name: str = "") -> jwt.PyJWK:
    return jwt.PyJWK(public_jwk(private_key(algorithm, name)))


def settings(**changes: Any) -> TokenSettings:
    return TokenSettings(auth_jwks_url=KEYS_URL, **{"auth_secret": [SECRET]} | changes)


def good(algorithm: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return signed(private_key(algorithm), algorithm, headers, **changes)


def refused(token: str, key: jwt.PyJWK | None, **changes: Any) -> str:
    with pytest.raises(TokenRefused) as error:
        verify_token(token, settings(**changes), key)
    return error.value.reason


@each_algorithm
def test_a_token_signed_with_the_key_says_who_calls(algorithm: str) -> None:
    token = good(algorithm, sub="b/2", role="admin", name="Ben")
    assert verify_token(token, settings(auth_secret=[]), published(algorithm)) == Principal(
        "b/2", Role.ADMIN, name="Ben"
    )


@each_algorithm
def test_a_token_of_another_key_of_the_same_kind_is_refused(algorithm: str) -> None:
    assert refused(good(algorithm), published(algorithm, "another")) == "bad_signature"


@each_algorithm
def test_a_signature_counts_for_what_it_was_made_for_only(algorithm: str) -> None:
    head, _, mark = good(algorithm).split(".")
    payload = good(algorithm, sub="ben").split(".")[1]
    for other in (f"{head}.{payload}.{mark}", f"{head}.{payload}.", f"{head}.{payload}.{'A' * len(mark)}"):
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
def test_a_key_is_used_by_its_own_algorithm_only(algorithm: str, key: Any) -> None:
    for other in {*ALGORITHMS} - {algorithm}:
        refused(signed(key, algorithm), published(other))


@each_algorithm
@pytest.mark.parametrize("shape", ["pem", "der", "raw", "jwk", "jwks"])
def test_a_public_key_is_no_secret(algorithm: str, shape: str) -> None:
    public = private_key(algorithm).public_key()
    raw = (Encoding.Raw, PublicFormat.Raw) if algorithm == "EdDSA" else (Encoding.PEM, PublicFormat.PKCS1)
    raw = (Encoding.X962, PublicFormat.UncompressedPoint) if algorithm == "ES256" else raw
    known: dict[str, bytes] = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "raw": public.public_bytes(*raw),
        "jwk": json.dumps(public_jwk(private_key(algorithm))).encode(),
        "jwks": json.dumps({"keys": [public_jwk(private_key(algorithm))]}).encode(),
    }
    for claimed in ("HS256", algorithm):
        token = forged({"alg": claimed}, lambda content: hmac.digest(known[shape], content, hashlib.sha256))
        for key in (published(algorithm), None):
            refused(token, key)
            refused(token, key, auth_secret=[])


@each_algorithm
def test_the_secret_signs_nothing_in_the_name_of_the_provider(algorithm: str) -> None:
    by_secret = signed(SECRET, "HS256")
    assert verify_token(by_secret, settings()).id == "anna"
    refused(by_secret, published(algorithm))
    refused(by_secret, None, auth_secret=[])
    refused(good(algorithm), None)
    refused(forged({"alg": algorithm}, lambda content: hmac.digest(SECRET.encode(), content, "sha256")), None)


@each_algorithm
def test_a_provider_makes_no_sessions(algorithm: str) -> None:
    token = good(algorithm, sid=str(UUID(int=1)), csrf="x")
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
def test_what_a_token_calls_critical_and_is_not_known_refuses_it(algorithm: str, headers: dict[str, Any]) -> None:
    token = forged({"alg": algorithm, **headers}, lambda content: sign(algorithm, content))
    assert refused(token, published(algorithm)) == "malformed"


@each_algorithm
def test_a_payload_that_is_not_encoded_is_refused(algorithm: str) -> None:
    header = {"alg": algorithm, "b64": False, "crit": ["b64"]}
    refused(forged(header, lambda content: sign(algorithm, content)), published(algorithm))


@each_algorithm
def test_what_a_token_says_of_its_own_key_is_not_looked_at(algorithm: str) -> None:
    own = private_key(algorithm, "of somebody else")
    headers = {
        "jwk": public_jwk(own),
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/chain.pem",
        "x5c": ["MIIB"],
    }
    refused(signed(own, algorithm, headers), published(algorithm))
    assert verify_token(good(algorithm, headers), settings(), published(algorithm)).id == "anna"


@each_algorithm
def test_clocks_may_differ_by_half_a_minute(algorithm: str) -> None:
    now, key = datetime.now(UTC), published(algorithm)
    verify_token(good(algorithm, exp=now - timedelta(seconds=20)), settings(), key)
    verify_token(good(algorithm, iat=now + timedelta(seconds=20)), settings(), key)
    assert refused(good(algorithm, exp=now - timedelta(seconds=40)), key) == "expired"
    refused(good(algorithm, iat=now + timedelta(seconds=40)), key)


@each_algorithm
@pytest.mark.parametrize("name", ["sub", "iat", "exp", "aud", "role"])
def test_a_token_without_a_needed_claim_is_refused(algorithm: str, name: str) -> None:
    missing: dict[str, Any] = {name: None}
    refused(good(algorithm, **missing), published(algorithm))


@each_algorithm
def test_audience_and_issuer_are_those_of_the_settings(algorithm: str) -> None:
    key, issuer = published(algorithm), "https://id.test"
    token = good(algorithm, aud=["shop", "chats"], iss=issuer)
    assert verify_token(token, settings(auth_issuer=issuer), key).id == "anna"
    refused(good(algorithm, aud=["shop"]), key)
    for other in (None, "", issuer + "/", "https://evil.test"):
        refused(good(algorithm, iss=other), key, auth_issuer=issuer)


def test_roles_are_found_and_mapped_as_in_any_token() -> None:
    shape = {"auth_role_claim": "realm_access.roles", "auth_role_map": "support=admin"}
    token = good("RS256", role=None, realm_access={"roles": ["offline_access", "support"]})
    assert verify_token(token, settings(**shape), published("RS256")).role is Role.ADMIN
    assert refused(good("RS256"), published("RS256"), **shape) == "missing_claim"


@each_algorithm
def test_a_token_that_is_too_large_is_refused_whoever_signed_it(algorithm: str) -> None:
    key = published(algorithm)
    assert verify_token(good(algorithm, groups=["x" * 8_000]), settings(), key).id == "anna"
    assert refused(good(algorithm, groups=["x" * 16_000]), key) == "malformed"
    refused(signed(SECRET, "HS256", groups=["x" * 16_000]), None)


def sign(algorithm: str, content: bytes) -> bytes:
    found: Any = jwt.get_algorithm_by_name(algorithm)
    signature: bytes = found.sign(content, private_key(algorithm))
    return signature
