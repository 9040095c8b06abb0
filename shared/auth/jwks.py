"""The keys (JWKS) of the store's identity provider, fetched from the configured URL, cached and refreshed.

A token cannot name another source: its headers `jku`, `jwk`, `x5u` and `x5c` are ignored.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from math import inf
from typing import Any, Final

import httpx2
import jwt
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.problems import TokenRefused, Unavailable

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# Algorithms by type of key. RSA has several, of which a key's optional `alg` may select one. Since RFC 9864 `Ed25519`
# and `Ed448` are also names for EdDSA with that curve.
_BY_KIND: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("OKP", "Ed448"): ("EdDSA", "Ed448"),
}
ALGORITHMS: Final = tuple(dict.fromkeys(name for names in _BY_KIND.values() for name in names))
MAX_TOKEN: Final = 16 * 1024  # characters
MAX_RESPONSE: Final = 256 * 1024  # bytes
MAX_KEYS: Final = 100

# Seconds.
TIMEOUT: Final = 3.0  # for a whole fetch
REFRESH_AFTER: Final = 300.0  # since the last fetch; requests do not wait for this refresh
MAX_AGE: Final = 600.0  # since the last fetch; then requests wait, so that withdrawn keys are not accepted longer
SEARCH_AFTER: Final = 10.0  # since the last fetch for an unknown key
RETRY_AFTER: Final = 10.0  # since a failed fetch
AWAY: Final = 60.0  # since a failed fetch, during which requests do not wait for the next one

log = structlog.get_logger()


class ProviderKeys:
    """The keys published at a URL. If a fetch fails, the last keys stay in use, however old.

    Keys are refreshed in the background after five minutes, and before the next request after ten. For an unknown key
    they are fetched again at most every ten seconds, so that tokens with made-up keys delay a new key by no more.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._client = _create_client()
        self._keys: list[jwt.PyJWK] | None = None
        self._fetched_at = self._failed_at = self._searched_at = -inf
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, token: str) -> jwt.PyJWK | None:
        """Return the key that a token names, or None if its algorithm does not use these keys.

        Raises `TokenRefused` if there is no such key, and `Unavailable` until keys have been fetched.
        """
        header = read_header(token)
        if header.get("alg") not in ALGORITHMS:
            return None
        now = self._clock()
        await self._refresh_if_due(now)
        key = self._pick(header)
        if key is None and self._may_search(now):
            self._searched_at = now
            await self.refresh()
            key = self._pick(header)
        if self._keys is None:
            raise Unavailable("The identity provider's keys cannot be fetched at the moment. Try again.")
        if key is None:
            if "kid" in header:
                raise TokenRefused("The identity provider has no key for the token's kid and alg.", "unknown_key")
            raise TokenRefused("The token has no kid, and its alg does not identify a single key.", "unknown_key")
        return key

    async def refresh(self) -> None:
        """Fetch the keys now, or wait for the fetch that is running."""
        await asyncio.shield(self._start())

    async def close(self) -> None:
        """Cancel a running fetch, and close the connection."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._client.aclose()

    async def _refresh_if_due(self, now: float) -> None:
        age, since_failure = now - self._fetched_at, now - self._failed_at
        if age < REFRESH_AFTER or since_failure < RETRY_AFTER:
            return
        fetching = self._start()
        if self._keys is None or (age >= MAX_AGE and since_failure >= AWAY):
            await asyncio.shield(fetching)

    def _may_search(self, now: float) -> bool:
        return (
            self._keys is not None
            and self._fetched_at < now  # else they have just been fetched
            and now - self._searched_at >= SEARCH_AFTER
        )

    def _pick(self, header: Mapping[str, Any]) -> jwt.PyJWK | None:
        """Return the single matching key. Without a `kid`, its algorithm must have only one."""
        matching = [key for key in self._keys or () if key.algorithm_name == header["alg"]]
        if "kid" in header:
            matching = [key for key in matching if key.key_id == header["kid"]]
        if len(matching) > 1:  # a set may list a key twice
            matching = list({_fingerprint(key): key for key in matching}.values())
        return matching[0] if len(matching) == 1 else None

    def _start(self) -> asyncio.Task[None]:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            keys = await _fetch(self._client, self._url)
        except JwksError as error:  # the last keys stay in use
            if self._failed_at <= self._fetched_at:  # the first one in a row
                kept = len(self._keys or ())
                log.warning("fetching the identity provider's keys failed", reason=str(error), kept=kept)
            self._failed_at = self._clock()
            return
        if self._failed_at >= self._fetched_at or _names(keys) != _names(self._keys or ()):
            log.info("fetched the identity provider's keys", usable=len({_fingerprint(key) for key in keys}))
        self._keys, self._fetched_at = keys, self._clock()


class JwksError(Exception):
    """The keys could not be fetched. `str()` is the reason."""


async def fetch_keys(url: str) -> list[jwt.PyJWK]:
    """Fetch the keys at a URL that can verify tokens, once. Raises `JwksError`."""
    async with _create_client() as client:
        return await _fetch(client, url)


def _create_client() -> httpx2.AsyncClient:
    # Uncompressed, so that the size limit applies to the bytes that are read. The provider may be on the internet, so
    # the environment's proxy is used.
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    return httpx2.AsyncClient(headers=headers, timeout=TIMEOUT, follow_redirects=False)


async def _fetch(client: httpx2.AsyncClient, url: str) -> list[jwt.PyJWK]:
    try:
        async with asyncio.timeout(TIMEOUT):
            return _read_keys(await _download(client, url))
    except JwksError:
        raise
    except Exception as error:
        raise JwksError(type(error).__name__) from error


async def _download(client: httpx2.AsyncClient, url: str) -> bytes:
    async with client.stream("GET", url) as response:
        if response.status_code != HTTPStatus.OK:  # also redirects: following one would trust another URL
            raise JwksError(f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_RESPONSE:
                raise JwksError(f"more than {MAX_RESPONSE} bytes")
        return bytes(body)


def _names(keys: Iterable[jwt.PyJWK]) -> set[str | None]:
    return {key.key_id for key in keys}


def read_header(token: str) -> dict[str, Any]:
    """Return a token's header, not verified; empty if the token is invalid or too long."""
    if len(token) > MAX_TOKEN:
        return {}
    try:
        return jwt.get_unverified_header(
            f"{token.partition('.')[0]}.."
        )  # only the header: the rest is parsed when the token is verified
    except (jwt.PyJWTError, ValueError):
        return {}


def _read_keys(body: bytes) -> list[jwt.PyJWK]:
    """Return the keys of a JWK set (RFC 7517) that can verify tokens, and ignore others."""
    jwks = json.loads(body)
    entries = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(entries, list):
        raise JwksError("not a JWK set")
    if len(entries) > MAX_KEYS:
        raise JwksError(f"more than {MAX_KEYS} keys")
    return [key for jwk in entries for key in _usable_keys(jwk)]


def _usable_keys(jwk: Any) -> list[jwt.PyJWK]:
    """Return a key for each algorithm with which a JWK can be used."""
    try:
        # "d": a published private key is compromised.
        if "d" in jwk or (jwk.get("use") or "sig") != "sig" or "verify" not in (jwk.get("key_ops") or ["verify"]):
            return []
        curve = None if jwk["kty"] == "RSA" else jwk["crv"]
        possible = _BY_KIND[jwk["kty"], curve]
        if (named := jwk.get("alg")) and named not in possible:
            return []
        names = (named,) if named and jwk["kty"] != "OKP" else possible
        return [key for name in names if (key := _usable_key(jwk, name)) is not None]
    except Exception:  # noqa: BLE001 - an invalid key must not affect the others
        return []


def _usable_key(jwk: Any, name: str) -> jwt.PyJWK | None:
    key = jwt.PyJWK(jwk, "EdDSA" if jwk["kty"] == "OKP" else name)
    algorithm, public = key.Algorithm, key.Algorithm.prepare_key(key.key)
    if algorithm.check_key_length(public) is not None:
        return None
    algorithm.verify(b"", public, bytes(64))  # raises for an unusable key now instead of in a request
    key.algorithm_name = name
    return key


def _fingerprint(key: jwt.PyJWK) -> bytes:
    public: bytes = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public
