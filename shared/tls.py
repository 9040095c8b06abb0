"""TLS options of URLs. Certificates and host names are always verified.

Options without verification raise `ValueError`, with a message that contains no part of the URL.
"""

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from sqlalchemy.engine import URL

SSL_MODES = ("disable", "verify-ca", "verify-full")
_VERIFIED = {"ssl_cert_reqs": {"required", "CERT_REQUIRED"}, "ssl_check_hostname": {"true", "True"}}


def database_tls(url: URL) -> tuple[URL, dict[str, Any]]:
    """Separate libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` from a URL. Return it and asyncpg's arguments.

    Without `sslmode`, TLS is used if the server offers it, without verification. Without `sslrootcert`, the system's
    authorities are trusted.
    """
    options = {name: str(value) for name, value in url.query.items() if name.startswith("ssl")}
    mode = options.pop("sslmode", None)
    if unknown := options.keys() - {"sslrootcert", "sslcert", "sslkey"}:
        raise ValueError(f"unknown option {', '.join(sorted(unknown))}, use sslmode and sslrootcert")
    if mode is None and not options:
        return url, {}
    if mode not in SSL_MODES:
        raise ValueError(f"sslmode must be one of {', '.join(SSL_MODES)}: the others do not verify the server")
    rest = url.difference_update_query([name for name in url.query if name.startswith("ssl")])
    if mode == "disable":
        return rest, {"ssl": False}
    try:
        root = options.get("sslrootcert", "system")
        context = ssl.create_default_context(cafile=None if root == "system" else root)
        if "sslcert" in options:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"))
    except OSError as error:  # also ssl.SSLError
        raise ValueError(f"sslrootcert, sslcert or sslkey cannot be read ({error.strerror or error})") from None
    context.check_hostname = mode == "verify-full"
    return rest, {"ssl": context}


def broker_tls(url: str) -> tuple[str, dict[str, Any] | None]:
    """Separate kombu's TLS options from a broker's URL. They are None if its scheme asks for no TLS.

    `ssl_ca_certs` names the trusted authorities; the default is the system's. `ssl_certfile` and `ssl_keyfile` are a
    client certificate. Left to itself, kombu would not verify anything.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {
        name: query[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in query
    }
    plain = parts._replace(query=urlencode({name: query[name] for name in query if not name.startswith("ssl_")}))
    if parts.scheme == "rediss":
        return plain.geturl(), {**options, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    if parts.scheme == "amqps":
        amqp_options = {name.removeprefix("ssl_"): value for name, value in options.items()}
        # kombu replaces None with the URL's host, and verifies the host name only then.
        return plain.geturl(), {**amqp_options, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return url, None


def check_verified(url: str) -> None:
    """Raise `ValueError` if the URL of a broker or Redis turns verification off."""
    for name, value in parse_qsl(urlsplit(url).query):
        if value not in _VERIFIED.get(name, {value}):
            raise ValueError(f"{name} must not be changed: the server's certificate is always verified")
