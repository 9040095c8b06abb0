"""An identity provider for tests: it has keys, signs tokens with them, and publishes the keys it is given."""

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

Key = Any  # a private key of any type


_keys: dict[tuple[str, str], Key] = {}


def private_key(algorithm: str, name: str = "") -> Key:
    """Return the key with this name for an algorithm, always the same one."""
    if (algorithm, name) not in _keys:
        _keys[algorithm, name] = _make(algorithm)
    return _keys[algorithm, name]


def _make(algorithm: str) -> Key:
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa.generate_private_key(65537, 2048)


def public_jwk(key: Key, **more: Any) -> dict[str, Any]:
    """Return the public half as a JWK, with additional members."""
    kinds = {"RS256": rsa.RSAPrivateKey, "ES256": ec.EllipticCurvePrivateKey, "EdDSA": ed25519.Ed25519PrivateKey}
    algorithm: Any = get_default_algorithms()[next(name for name, kind in kinds.items() if isinstance(key, kind))]
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with changes; None removes a claim."""
    now = datetime.now(UTC)
    valid = {"sub": "anna", "role": "customer", "aud": "chats", "iat": now, "exp": now + timedelta(hours=1)}
    return {name: value for name, value in (valid | changes).items() if value is not None}


def signed(key: Key, algorithm: str, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """Sign valid claims with changes."""
    return jwt.encode(claims(**changes), key, algorithm, headers=dict(headers or {}))


def forged(header: Mapping[str, Any], sign: Callable[[bytes], bytes], **changes: Any) -> str:
    """Assemble a token by hand, with headers and signatures that no library would make."""
    payload = {
        name: value.timestamp() if isinstance(value, datetime) else value for name, value in claims(**changes).items()
    }
    content = b".".join(_encoded(json.dumps(part).encode()) for part in (header, payload))
    return (content + b"." + _encoded(sign(content))).decode()


def _encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class Provider:
    """The endpoint that publishes the keys. It counts requests; `answer` replaces its response."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/keys"
        self.jwks: list[Any] = []
        self.request_count = 0
        self.request_heads: list[str] = []
        self.answer: Callable[[asyncio.StreamWriter], Awaitable[None]] = self.publish

    async def publish(self, writer: asyncio.StreamWriter) -> None:
        """Respond with the keys."""
        await respond(writer, json.dumps({"keys": self.jwks}).encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request."""
        self.request_heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        self.request_count += 1
        try:
            await self.answer(writer)
        except OSError:  # the client has disconnected
            pass
        finally:
            writer.close()


async def respond(
    writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> None:
    """Send a response and close the connection after it."""
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


@asynccontextmanager
async def running_provider() -> AsyncIterator[Provider]:
    """Run a provider on a free port."""
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
