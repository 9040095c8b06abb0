"""The machine's certificates, read once for all HTTP clients of the tests: each client would take 35 ms of CPU."""

import os
import ssl
from functools import cache

import httpcore2

OTHERS = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
"""The variables with which a test has others."""


def share_certificates() -> None:
    """Give all clients one context, as the connections of one client have."""
    read = httpcore2.default_ssl_context
    shared = cache(read)

    def default_ssl_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        if OTHERS & os.environ.keys():
            return read(_trust_env=_trust_env)
        return shared(_trust_env=_trust_env)

    httpcore2.default_ssl_context = default_ssl_context
