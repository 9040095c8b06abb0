"""Which keys of the identity provider count, and for which tokens."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.keys import ProviderKeys
from tests.provider import ALGORITHMS, Provider, private_key, public_jwk, running_provider, signed
from tests.service.conftest import SECRET
from tests.service.provider_keys import MINUTE, Clock, counts, of


def small_key() -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)  # noqa: S505 - the point


def private_jwk(algorithm: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    found: dict[str, Any] = kinds[algorithm].to_jwk(private_key(algorithm), as_dict=True)
    return found | {"key_ops": ["sign", "verify"]}


RSA, EC, OKP = (public_jwk(private_key(algorithm)) for algorithm in ALGORITHMS)


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (RSA | {"use": "enc"}, "RS256"),
        (RSA | {"key_ops": ["encrypt"]}, "RS256"),
        (RSA | {"key_ops": 7}, "RS256"),
        (RSA | {"alg": "RS512"}, "RS256"),
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
async def test_a_key_that_does_not_fit_is_left_aside_and_the_others_count(
    keys: ProviderKeys, provider: Provider, jwk: dict[str, Any], algorithm: str
) -> None:
    provider.jwks = [None, "x", 7, [], jwk | {"kid": "odd"}, public_jwk(private_key("RS256", "good"), kid="good")]
    assert not await counts(keys, of("odd", algorithm))
    assert await counts(keys, of("good", name="good"))


async def test_a_secret_that_a_provider_publishes_signs_nothing(keys: ProviderKeys, provider: Provider) -> None:
    provider.jwks.append({"kty": "oct", "kid": "odd", "k": "YSBzZWNyZXQgZm9yIHRlc3RzLCBvZiAzMiBieXRlcyBvciBtb3Jl"})
    assert await counts(keys, of("RS256"))
    assert await keys.find(signed(SECRET, "HS256", {"kid": "odd"})) is None


async def test_a_token_needs_to_name_its_key_where_there_are_several_of_its_kind(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    assert await counts(keys, of(None, "RS256"))
    assert await counts(keys, of(None, "EdDSA"))
    provider.jwks += [public_jwk(private_key("RS256", "other"), kid="other"), public_jwk(private_key("EdDSA", "other"))]
    clock.now += 10 * MINUTE
    assert not await counts(keys, of(None, "RS256"))
    assert not await counts(keys, of(None, "EdDSA"))
    assert await counts(keys, of("other", name="other"))
    assert await counts(keys, of(None, "ES256"))


async def test_two_keys_of_one_name_are_none(keys: ProviderKeys, provider: Provider) -> None:
    provider.jwks.append(public_jwk(private_key("RS256", "other"), kid="RS256"))
    assert not await counts(keys, of("RS256"))
    assert not await counts(keys, of("RS256", name="other"))
    assert await counts(keys, of("ES256", "ES256"))


@pytest.mark.parametrize("header", ["jku", "x5u"])
async def test_no_token_sends_us_anywhere(keys: ProviderKeys, provider: Provider, header: str) -> None:
    async with running_provider() as evil:
        evil.jwks = [public_jwk(private_key("RS256", "evil"), kid="evil")]
        more: dict[str, Any] = {header: evil.url}
        assert not await counts(keys, of("evil", name="evil", **more))
        assert await counts(keys, of("RS256", **more))
        assert evil.asked == 0
    assert provider.asked == 1


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "é.é.é", "\0", "x" * 100_000, "W10..", "bnVsbA..", "eyJhbGciOlsiUlMyNTYiXX0.."]
)
async def test_what_is_no_token_has_no_key_and_asks_nobody(keys: ProviderKeys, provider: Provider, token: str) -> None:
    assert await keys.find(token) is None
    assert provider.asked == 0


async def test_a_token_that_is_too_large_asks_nobody(keys: ProviderKeys, provider: Provider) -> None:
    assert await keys.find(signed(private_key("RS256"), "RS256", {"kid": "RS256"}, groups=["x" * 16_000])) is None
    assert provider.asked == 0
