"""An identity provider of our own for tests: it has keys, signs with them, and publishes what it is told to."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ALGORITHMS = ("RS256", "ES256", "EdDSA")
CURVES: Mapping[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}

Key = Any  # a private one, of whatever kind


_made: dict[tuple[str, str], Key] = {}


def private_key(algorithm: str, name: str = "") -> Key:
    """Return the key of a name for an algorithm, always the same."""
    if (algorithm, name) not in _made:
        _made[algorithm, name] = _make(algorithm)
    return _made[algorithm, name]


def _make(algorithm: str) -> Key:
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa.generate_private_key(65537, 2048)


def public_jwk(key: Key, **more: Any) -> dict[str, Any]:
    """Return the public half as a JWK, with further members."""
    kinds = {"RS256": rsa.RSAPrivateKey, "ES256": ec.EllipticCurvePrivateKey, "EdDSA": ed25519.Ed25519PrivateKey}
    found: Any = get_default_algorithms()[next(name for name, kind in kinds.items() if isinstance(key, kind))]
    return {**found.to_jwk(key.public_key(), as_dict=True), **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None takes a claim away."""
    now = datetime.now(UTC)
    good = {"sub": "anna", "role": "customer", "aud": "chats", "iat": now, "exp": now + timedelta(hours=1)}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(key: Key, algorithm: str, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """Sign good claims with changes."""
    return jwt.encode(claims(**changes), key, algorithm, headers=dict(headers or {}))


def forged(header: Mapping[str, Any], sign: Callable[[bytes], bytes], **changes: Any) -> str:
    """Put a token together by hand, as no library would."""
    payload = {
        name: value.timestamp() if isinstance(value, datetime) else value for name, value in claims(**changes).items()
    }
    content = b".".join(_encoded(json.dumps(part).encode()) for part in (header, payload))
    return (content + b"." + _encoded(sign(content))).decode()


def _encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class Provider:
    """The endpoint that publishes keys. It counts who asks; `answer` replaces what it says."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/keys"
        self.jwks: list[Any] = []
        self.asked = 0
        self.heads: list[str] = []
        self.answer: Callable[[asyncio.StreamWriter], Awaitable[None]] = self.publish

    async def publish(self, writer: asyncio.StreamWriter) -> None:
        """Answer with the keys."""
        await say(writer, json.dumps({"keys": self.jwks}).encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        self.asked += 1
        try:
            await self.answer(writer)
        except OSError:  # whoever asked has gone
            pass
        finally:
            writer.close()


async def say(
    writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> None:
    """Send an answer, to the end of the connection."""
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


@asynccontextmanager
async def running_provider() -> AsyncIterator[Provider]:
    """Run a provider on a port of its own."""
    provider: Provider | None = None
    serving: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert provider is not None
        serving.add(asyncio.create_task(provider.serve(reader, writer)))

    listening = await asyncio.start_server(begin, "127.0.0.1", 0)
    provider = Provider(listening.sockets[0].getsockname()[1])
    async with listening:
        yield provider
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
