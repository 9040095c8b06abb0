"""The keys of the store's identity provider: fetched from its one configured URL, kept, and fetched again.

Nothing in a token says where its key comes from: `jku`, `jwk`, `x5u` and `x5c` are never looked at.
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
# What a key may verify by its kind, for RSA and Ed25519 more than one: `alg` may narrow it down, and need not be there.
# Ed25519 is the name for EdDSA with that curve since RFC 9864.
_BY_KIND: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("OKP", "Ed448"): ("EdDSA",),
}
ALGORITHMS: Final = tuple(dict.fromkeys(name for names in _BY_KIND.values() for name in names))
MAX_TOKEN: Final = 16 * 1024  # characters
MAX_ANSWER: Final = 256 * 1024  # bytes
MAX_KEYS: Final = 100

# Seconds.
TIMEOUT: Final = 3.0  # of a fetch as a whole
REFRESH_AFTER: Final = 300.0  # since the last fetch; nobody waits for this one
MAX_AGE: Final = 600.0  # when requests wait for a fetch, so that a key that was withdrawn counts no longer
SEARCH_AFTER: Final = 10.0  # since the last fetch for a key that is not known
RETRY_AFTER: Final = 10.0  # since a fetch that failed
AWAY: Final = 60.0  # since a fetch that failed, while nobody waits for the next one

log = structlog.get_logger()


class ProviderKeys:
    """The keys that one URL publishes. A fetch that fails leaves the last ones as they are, however old.

    A set of keys is fetched again after five minutes, beside the requests, and before the next request when it is
    older than ten; for a key that it lacks, every ten seconds at most, so that tokens with made-up keys delay a new key
    by no more.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        # Answers come as they are, so that what is counted is what is read. The provider may be out in the world:
        # a proxy that the environment names counts.
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        self._client = httpx2.AsyncClient(headers=headers, timeout=TIMEOUT, follow_redirects=False)
        self._keys: list[jwt.PyJWK] | None = None
        self._fetched_at = self._failed_at = self._searched_at = -inf
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, token: str) -> jwt.PyJWK | None:
        """Return the key that a token says it is signed with; None for a token that these keys are not for.

        Raises `TokenRefused` when there is no such key, and `Unavailable` while no keys could be fetched at all.
        """
        header = read_header(token)
        if header.get("alg") not in ALGORITHMS:
            return None
        asked_at = self._clock()
        await self._refresh_if_due(asked_at)
        key = self._pick(header)
        if key is None and self._may_search(asked_at):
            self._searched_at = asked_at
            await self.refresh()
            key = self._pick(header)
        if self._keys is None:
            raise Unavailable("The keys of the identity provider cannot be fetched at the moment. Try again.")
        if key is None:
            named = "for the token's kid and alg" if "kid" in header else "alone for its alg, and the token names none"
            raise TokenRefused(f"The identity provider publishes no key {named}.", "unknown_key")
        return key

    async def refresh(self) -> None:
        """Fetch the keys now, or wait for who is already doing so."""
        await asyncio.shield(self._start())

    async def close(self) -> None:
        """Let go of the connection."""
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

    def _may_search(self, asked_at: float) -> bool:
        return (
            self._keys is not None
            and self._fetched_at < asked_at  # else they have just come
            and asked_at - self._searched_at >= SEARCH_AFTER
        )

    def _pick(self, header: Mapping[str, Any]) -> jwt.PyJWK | None:
        """Return the one key that fits. A token may name none where there is only one of its algorithm."""
        fitting = [key for key in self._keys or () if key.algorithm_name == header["alg"]]
        if "kid" in header:
            fitting = [key for key in fitting if key.key_id == header["kid"]]
        if len(fitting) > 1:  # a set may list a key twice
            fitting = list({_fingerprint(key): key for key in fitting}.values())
        return fitting[0] if len(fitting) == 1 else None

    def _start(self) -> asyncio.Task[None]:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                keys = _read_keys(await self._download())
        except Exception as error:  # noqa: BLE001 - whatever an answer may be, the last keys count on
            if self._failed_at <= self._fetched_at:  # the first one in a row
                reason = str(error) if isinstance(error, _UnusableAnswerError) else type(error).__name__
                kept = len(self._keys or ())
                log.warning("the identity provider's keys could not be fetched", reason=reason, kept=kept)
            self._failed_at = self._clock()
            return
        if self._failed_at >= self._fetched_at or _names(keys) != _names(self._keys or ()):
            log.info("the identity provider's keys were fetched", usable=len({_fingerprint(key) for key in keys}))
        self._keys, self._fetched_at = keys, self._clock()

    async def _download(self) -> bytes:
        async with self._client.stream("GET", self._url) as answer:
            if answer.status_code != HTTPStatus.OK:  # to follow a redirect would be to trust another URL
                raise _UnusableAnswerError(f"status {answer.status_code}")
            found = bytearray()
            async for part in answer.aiter_raw():
                found += part
                if len(found) > MAX_ANSWER:
                    raise _UnusableAnswerError(f"more than {MAX_ANSWER} bytes")
            return bytes(found)


class _UnusableAnswerError(Exception):
    """An answer that is no set of keys."""


def _names(keys: Iterable[jwt.PyJWK]) -> set[str | None]:
    return {key.key_id for key in keys}


def read_header(token: str) -> dict[str, Any]:
    """Return a token's header, which nothing vouches for yet; an empty one when it cannot be read or is not ours."""
    if len(token) > MAX_TOKEN:
        return {}
    try:
        return jwt.get_unverified_header(f"{token.partition('.')[0]}..")  # the header alone: the rest is read once
    except (jwt.PyJWTError, ValueError):
        return {}


def _read_keys(answer: bytes) -> list[jwt.PyJWK]:
    """Return the keys of a JWK set (RFC 7517) that can verify tokens; what else is in it is left aside."""
    found = json.loads(answer)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise _UnusableAnswerError("no JWK set")
    if len(listed) > MAX_KEYS:
        raise _UnusableAnswerError(f"more than {MAX_KEYS} keys")
    return [key for jwk in listed for key in _usable_keys(jwk)]


def _usable_keys(jwk: Any) -> list[jwt.PyJWK]:
    """Return a JWK once for each algorithm that it may be used by."""
    try:
        # A private key that is published is nobody's any more.
        if "d" in jwk or (jwk.get("use") or "sig") != "sig" or "verify" not in (jwk.get("key_ops") or ["verify"]):
            return []
        curve = None if jwk["kty"] == "RSA" else jwk["crv"]
        possible = _BY_KIND[jwk["kty"], curve]
        if (named := jwk.get("alg")) and named not in possible:
            return []
        names = (named,) if named and jwk["kty"] != "OKP" else possible
        return [key for name in names if (key := _usable_key(jwk, name)) is not None]
    except Exception:  # noqa: BLE001 - whatever is wrong with one key, the others count
        return []


def _usable_key(jwk: Any, name: str) -> jwt.PyJWK | None:
    key = jwt.PyJWK(jwk, "EdDSA" if jwk["kty"] == "OKP" else name)
    algorithm, public = key.Algorithm, key.Algorithm.prepare_key(key.key)
    if algorithm.check_key_length(public) is not None:
        return None
    algorithm.verify(b"", public, bytes(64))  # no request is to find out that it cannot be used
    key.algorithm_name = name
    return key


def _fingerprint(key: jwt.PyJWK) -> bytes:
    public: bytes = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public
