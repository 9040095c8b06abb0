"""Send a webhook: one POST to an address that was checked, with a signature, and with bounds on everything.

The host name is resolved once for each connection, all of its addresses are checked, and the connection goes to one of
these. TLS gets the name itself, for SNI and for the certificate. Redirects are answers like others, and the settings of
the environment for proxies have no effect.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpcore2
import structlog
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream

from services.conversations.rules import WebhookError
from services.conversations.webhooks.addresses import is_reachable

TIMEOUT: Final = 10.0  # seconds, for all of an attempt
MAX_RESPONSE: Final = 4096  # bytes that are read of an answer
MAX_RETRY_AFTER: Final = 3600.0  # seconds
KEEP_ALIVE: Final = 15.0  # seconds that a connection is kept: its name is resolved again after that
MAX_LOOKUPS: Final = 20  # at a time
MAX_ADDRESSES: Final = 3  # of a name that are tried

log = structlog.get_logger()


class AddressRefusedError(Exception):
    """A host name leads to an address that webhooks may not reach."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt led to. `error` is None for an answer of 2xx. `response` is the beginning of any other answer."""

    status: int | None = None
    error: WebhookError | None = None
    response: str | None = None
    retry_after: float = 0.0
    duration_ms: int = 0


class Sender:
    """Sends webhooks over connections that it keeps."""

    def __init__(self, private_hosts: frozenset[str], *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=100,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=CheckedNetwork(private_hosts),
        )

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        """Send a body; return the outcome. Never raises because of what the other side does."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                outcome = await self._attempt(url, headers, body)
        except (TimeoutError, httpcore2.TimeoutException):
            outcome = Outcome(error=WebhookError.TIMEOUT)
        except AddressRefusedError:
            outcome = Outcome(error=WebhookError.ADDRESS)
        except httpcore2.ConnectError as error:
            outcome = Outcome(error=WebhookError.TLS if _is_tls(error) else WebhookError.UNREACHABLE)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            outcome = Outcome(error=WebhookError.CONNECTION)
        except Exception as error:  # what no library expects must not hold up the deliveries behind it
            log.warning("webhook not sent", error=type(error).__name__)
            log.debug("webhook not sent", exc_info=error)
            outcome = Outcome(error=WebhookError.CONNECTION)
        duration = min(round((time.monotonic() - started) * 1000), 2**31 - 1)
        return Outcome(outcome.status, outcome.error, outcome.response, outcome.retry_after, duration)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def _attempt(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        async with self._pool.stream("POST", url, headers=[(b"Host", _host(url)), *fields], content=body) as response:
            if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                # An empty or short answer is read, so that its connection can be used again.
                await _read(response)
                return Outcome(response.status)
            answer = await _read(response)
            return Outcome(
                response.status,
                WebhookError.GONE if response.status == HTTPStatus.GONE else WebhookError.STATUS,
                answer.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
                _retry_after(response.headers),
            )


class CheckedNetwork(AsyncNetworkBackend):
    """A network that connects to addresses that `is_reachable` allows, and to no others."""

    def __init__(self, private_hosts: frozenset[str]) -> None:
        self._private_hosts = private_hosts
        self._network = httpcore2.AnyIOBackend()
        # One lookup for a host at a time, and a thread for each: a slow one holds up no other host.
        self._lookups: dict[tuple[str, int], asyncio.Task[list[str]]] = {}
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="webhook-lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - of the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Resolve a name, check all of its addresses, and connect to the first one that answers."""
        addresses = await self._resolve(host, port)
        is_private_host = host.lower().rstrip(".") in self._private_hosts
        if not all(is_reachable(address, is_private_host=is_private_host) for address in addresses):
            raise AddressRefusedError
        failure: Exception = httpcore2.ConnectError("no address")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = self._lookups[host, port] = asyncio.create_task(self._look_up(host, port))
            lookup.add_done_callback(lambda _: self._lookups.pop((host, port)))
        return await asyncio.shield(lookup)

    async def _look_up(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name, in the resolver's order. Raises `ConnectError` if there are none."""
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name cannot be resolved") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_tls(error: BaseException | None) -> bool:
    """Return whether an error of TLS is among the causes of an error."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _read(response: httpcore2.Response) -> bytes:
    """Return the beginning of an answer."""
    read = b""
    async for chunk in response.aiter_stream():
        read += chunk[: MAX_RESPONSE - len(read)]
        if len(read) == MAX_RESPONSE:
            break
    return read


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float:
    """Return the bounded seconds of a `Retry-After`; 0 without one that can be read."""
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    try:
        seconds = float(value) if value.isdecimal() else (_date(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _date(value: str) -> datetime:
    date = parsedate_to_datetime(value)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _host(url: str) -> bytes:
    parts = urlsplit(url)
    return parts.netloc.encode()
