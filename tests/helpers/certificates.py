"""The machine's certificates, read once for all HTTP clients of the tests: each client would take 35 ms of CPU."""

import os
import ssl
from functools import cache
from typing import Any

import httpcore2

OTHERS = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
"""The variables with which a test has others."""


def share_certificates() -> None:
    """Let clients share a context, as the connections of one client do."""
    read = httpcore2.default_ssl_context
    shared = cache(read)

    def default_ssl_context(**options: Any) -> ssl.SSLContext:
        return (read if OTHERS & os.environ.keys() else shared)(**options)

    httpcore2.default_ssl_context = default_ssl_context
