"""The machine's certificates, read once for all HTTP clients of the tests: each client would take 40 ms of CPU."""

import os
import ssl
from functools import cache

import httpcore2

FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables that name other certificates. The machine may set them, and so may a test."""


def share_certificates() -> None:
    """Give all clients with the same certificates one context, as the connections of one client have."""
    read = httpcore2.default_ssl_context

    @cache
    def shared(trust_env: bool, *_: str | None) -> ssl.SSLContext:
        return read(_trust_env=trust_env)

    def default_ssl_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        return shared(_trust_env, *map(os.environ.get, FILES))

    httpcore2.default_ssl_context = default_ssl_context
