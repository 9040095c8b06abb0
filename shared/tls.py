"""Connections over TLS, as a URL asks for them: the certificate is verified, and so is the name in it.

What would encrypt without knowing to whom is refused. Errors are ValueErrors that hold no part of the URL.
"""

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from sqlalchemy.engine import URL

SSL_MODES = ("disable", "verify-ca", "verify-full")
_VERIFIED = {"ssl_cert_reqs": {"required", "CERT_REQUIRED"}, "ssl_check_hostname": {"true", "True"}}


def database_tls(url: URL) -> tuple[URL, dict[str, Any]]:
    """Split what libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` ask for from a URL, as asyncpg's arguments.

    Without `sslmode` TLS is used where the server offers it, and nothing is verified. Without `sslrootcert` the
    system's own authorities count.
    """
    asked = {name: str(value) for name, value in url.query.items() if name.startswith("ssl")}
    mode = asked.pop("sslmode", None)
    if unknown := asked.keys() - {"sslrootcert", "sslcert", "sslkey"}:
        raise ValueError(f"{', '.join(sorted(unknown))} is not known, write sslmode and sslrootcert")
    if mode is None and not asked:
        return url, {}
    if mode not in SSL_MODES:
        raise ValueError(f"sslmode must be one of {', '.join(SSL_MODES)}: others take any server for the right one")
    rest = url.difference_update_query([name for name in url.query if name.startswith("ssl")])
    if mode == "disable":
        return rest, {"ssl": False}
    try:
        root = asked.get("sslrootcert", "system")
        context = ssl.create_default_context(cafile=None if root == "system" else root)
        if "sslcert" in asked:
            context.load_cert_chain(asked["sslcert"], asked.get("sslkey"))
    except OSError as error:  # also ssl.SSLError
        raise ValueError(f"sslrootcert, sslcert or sslkey cannot be read ({error.strerror or error})") from None
    context.check_hostname = mode == "verify-full"
    return rest, {"ssl": context}


def broker_tls(url: str) -> tuple[str, dict[str, Any] | None]:
    """Split a broker's URL from how kombu is to secure the connection: None where its scheme asks for no TLS.

    `ssl_ca_certs` in the URL names who may sign, else the system's own authorities count; left to itself kombu would
    verify nothing. A client's own certificate is `ssl_certfile` and `ssl_keyfile`.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    asked: dict[str, Any] = {
        name: given[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in given
    }
    plain = parts._replace(query=urlencode({name: given[name] for name in given if not name.startswith("ssl_")}))
    if parts.scheme == "rediss":
        return plain.geturl(), {**asked, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    if parts.scheme == "amqps":
        named = {name.removeprefix("ssl_"): value for name, value in asked.items()}
        # kombu puts the URL's own host in the place of None; it is verified only then.
        return plain.geturl(), {**named, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return url, None


def check_verified(url: str) -> None:
    """Refuse a broker's or Redis's URL that turns the verification off."""
    for name, value in parse_qsl(urlsplit(url).query):
        if value not in _VERIFIED.get(name, {value}):
            raise ValueError(f"{name} must stay as it is: the server's certificate is verified")
