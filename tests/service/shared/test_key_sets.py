"""Which of the identity provider's keys are accepted, and for which tokens."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.auth.jwks import ProviderKeys
from shared.auth.tokens import verify_token
from shared.problems import TokenRefused
from shared.settings import TokenSettings
from tests.helpers.identity_provider import (
    ALGORITHMS,
    Provider,
    forged,
    private_key,
    public_jwk,
    running_provider,
    signed,
)
from tests.service.conftest import SECRET
from tests.service.helpers.provider_keys import MINUTE, Clock, accepts, token_with_kid

SETTINGS = TokenSettings(auth_secret=[SECRET], auth_jwks_url="http://id.test/keys")


def small_key() -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)  # noqa: S505 - the point


def private_jwk(algorithm: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    jwk: dict[str, Any] = kinds[algorithm].to_jwk(private_key(algorithm), as_dict=True)
    return jwk | {"key_ops": ["sign", "verify"]}


RSA, EC, OKP = (public_jwk(private_key(algorithm)) for algorithm in ALGORITHMS)


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (RSA | {"use": "enc"}, "RS256"),
        (RSA | {"key_ops": ["encrypt"]}, "RS256"),
        (RSA | {"key_ops": 7}, "RS256"),
        (RSA | {"alg": "RS512"}, "RS256"),
        (RSA | {"alg": "RS512"}, "PS512"),
        (EC, "ES384"),
        (RSA | {"alg": "PS256"}, "RS256"),
        (RSA | {"alg": "HS256"}, "RS256"),
        (RSA | {"alg": "none"}, "RS256"),
        (RSA | {"alg": "ES256"}, "RS256"),
        (RSA | {"alg": ["RS256"]}, "RS256"),
        (RSA | {"alg": "RSA-OAEP"}, "RS256"),
        (RSA | {"kty": "EC"}, "RS256"),
        (RSA | {"kty": "oct", "k": "c2VjcmV0"}, "RS256"),
        (RSA | {"n": 7}, "RS256"),
        (RSA | {"n": "AQAB"}, "RS256"),
        (RSA | {"e": "AA"}, "RS256"),
        *((private_jwk(algorithm), algorithm) for algorithm in ALGORITHMS),
        (EC | {"crv": "P-384"}, "ES256"),
        (EC | {"alg": "RS256"}, "ES256"),
        (EC | {"x": EC["y"], "y": EC["x"]}, "ES256"),
        (public_jwk(private_key("ES384"), alg="ES256"), "ES256"),
        (OKP | {"crv": "X25519"}, "EdDSA"),
        (OKP | {"crv": None}, "EdDSA"),
        (OKP | {"alg": "ES256"}, "EdDSA"),
        (OKP | {"x": "AQAB"}, "EdDSA"),
        (OKP | {"d": "AQAB"}, "EdDSA"),
        (small_key(), "RS256"),
        ({}, "RS256"),
        ({"kty": "oct", "k": "YSBzZWNyZXQgZm9yIHRlc3RzLCBvZiAzMiBieXRlcyBvciBtb3Jl", "alg": "RS256"}, "RS256"),
    ],
)
async def test_an_unusable_key_is_ignored_and_the_others_are_used(
    keys: ProviderKeys, provider: Provider, jwk: dict[str, Any], algorithm: str
) -> None:
    provider.jwks = [None, "x", 7, [], jwk | {"kid": "odd"}, public_jwk(private_key("RS256", "good"), kid="good")]
    assert not await accepts(keys, token_with_kid("odd", algorithm))
    assert await accepts(keys, token_with_kid("good", name="good"))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *((algorithm, "RS256") for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        *((algorithm, algorithm) for algorithm in ("ES256", "ES384", "ES512", "EdDSA")),
    ],
)
async def test_a_key_verifies_each_algorithm_of_its_type_that_it_allows(
    keys: ProviderKeys, provider: Provider, algorithm: str, kind: str, *, named: bool
) -> None:
    key = private_key(kind, "any")
    more = {"alg": algorithm, "use": "sig", "key_ops": ["verify"]} if named else {"alg": None, "use": None}
    provider.jwks.append(public_jwk(key, kid="any", **more))
    token = signed(key, algorithm, {"kid": "any"})
    key_found = await keys.find(token)
    assert verify_token(token, SETTINGS, key_found).id == "anna"
    for signature in ("A" * len(token.rpartition(".")[2]), "", token.rpartition(".")[2][::-1]):
        with pytest.raises(TokenRefused):
            verify_token(f"{token.rpartition('.')[0]}.{signature}", SETTINGS, key_found)


@pytest.mark.parametrize("named", ["EdDSA", "Ed25519", None])
@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
async def test_ed25519_is_accepted_by_both_its_names(
    keys: ProviderKeys, provider: Provider, algorithm: str, named: str | None
) -> None:
    key = private_key("EdDSA", "any")
    provider.jwks.append(public_jwk(key, kid="any", alg=named))
    token = forged({"alg": algorithm, "kid": "any"}, key.sign)
    key_found = await keys.find(token)
    assert verify_token(token, SETTINGS, key_found).id == "anna"
    other = forged({"alg": algorithm, "kid": "any"}, private_key("EdDSA", "other").sign)
    with pytest.raises(TokenRefused) as refused:
        verify_token(other, SETTINGS, await keys.find(other))
    assert refused.value.reason == "bad_signature"


@pytest.mark.parametrize("named", ["EdDSA", "Ed448", None])
@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed448"])
async def test_ed448_is_one_algorithm_under_both_names(
    keys: ProviderKeys, provider: Provider, algorithm: str, named: str | None
) -> None:
    key = ed448.Ed448PrivateKey.generate()
    provider.jwks.append(OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "any", "alg": named})
    token = forged({"alg": algorithm, "kid": "any"}, key.sign)
    assert verify_token(token, SETTINGS, await keys.find(token)).id == "anna"
    assert await keys.find(forged({"alg": "EdDSA", "kid": "any"}, key.sign)) is not None
    with pytest.raises(TokenRefused):
        await keys.find(forged({"alg": "Ed25519", "kid": "any"}, key.sign))


async def test_a_key_that_is_listed_twice_counts_once(keys: ProviderKeys, provider: Provider) -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        key = private_key(algorithm, "twice")
        provider.jwks = [
            public_jwk(key, kid="twice", alg=algorithm),
            public_jwk(key, kid="twice"),
            public_jwk(key, kid="twice", use="enc"),
            public_jwk(key, kid="by another name"),
            *(public_jwk(private_key(other, "twice"), kid="twice") for other in ALGORITHMS if other != algorithm),
        ]
        await keys.refresh()
        for kid in ("twice", "by another name", None):
            assert await accepts(keys, token_with_kid(kid, algorithm, "twice"))


async def test_a_token_without_a_known_key_is_rejected_as_such(keys: ProviderKeys) -> None:
    for token in (token_with_kid("made up"), token_with_kid("RS256", "ES256"), token_with_kid(None, "ES384")):
        with pytest.raises(TokenRefused) as refused:
            await keys.find(token)
        assert refused.value.reason == "unknown_key"


async def test_a_symmetric_key_published_by_the_provider_is_not_used(keys: ProviderKeys, provider: Provider) -> None:
    provider.jwks.append({"kty": "oct", "kid": "odd", "k": "YSBzZWNyZXQgZm9yIHRlc3RzLCBvZiAzMiBieXRlcyBvciBtb3Jl"})
    assert await accepts(keys, token_with_kid("RS256"))
    assert await keys.find(signed(SECRET, "HS256", {"kid": "odd"})) is None


async def test_a_token_must_name_its_key_if_there_are_several_of_its_type(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    assert await accepts(keys, token_with_kid(None, "RS256"))
    assert await accepts(keys, token_with_kid(None, "EdDSA"))
    provider.jwks += [public_jwk(private_key("RS256", "other"), kid="other"), public_jwk(private_key("EdDSA", "other"))]
    clock.now += 10 * MINUTE
    assert not await accepts(keys, token_with_kid(None, "RS256"))
    assert not await accepts(keys, token_with_kid(None, "EdDSA"))
    assert await accepts(keys, token_with_kid("other", name="other"))
    assert await accepts(keys, token_with_kid(None, "ES256"))


async def test_two_keys_with_the_same_id_are_not_used(keys: ProviderKeys, provider: Provider) -> None:
    provider.jwks.append(public_jwk(private_key("RS256", "other"), kid="RS256"))
    assert not await accepts(keys, token_with_kid("RS256"))
    assert not await accepts(keys, token_with_kid("RS256", name="other"))
    assert await accepts(keys, token_with_kid("ES256", "ES256"))


@pytest.mark.parametrize("header", ["jku", "x5u"])
async def test_urls_in_a_tokens_header_are_not_fetched(keys: ProviderKeys, provider: Provider, header: str) -> None:
    async with running_provider() as evil:
        evil.jwks = [public_jwk(private_key("RS256", "evil"), kid="evil")]
        more: dict[str, Any] = {header: evil.url}
        assert not await accepts(keys, token_with_kid("evil", name="evil", **more))
        assert await accepts(keys, token_with_kid("RS256", **more))
        assert evil.request_count == 0
    assert provider.request_count == 1


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "é.é.é", "\0", "x" * 100_000, "W10..", "bnVsbA..", "eyJhbGciOlsiUlMyNTYiXX0.."]
)
async def test_a_malformed_token_has_no_key_and_causes_no_fetch(
    keys: ProviderKeys, provider: Provider, token: str
) -> None:
    assert await keys.find(token) is None
    assert provider.request_count == 0
    with pytest.raises(TokenRefused) as refused:
        verify_token(token, TokenSettings(auth_jwks_url=provider.url))
    assert refused.value.reason == "malformed"


async def test_a_token_that_is_too_large_causes_no_fetch(keys: ProviderKeys, provider: Provider) -> None:
    assert await keys.find(signed(private_key("RS256"), "RS256", {"kid": "RS256"}, groups=["x" * 16_000])) is None
    assert provider.request_count == 0
