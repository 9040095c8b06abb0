"""Database URLs as operators write them: with one host, or several of which one accepts writes."""

from urllib.parse import urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared.tls import database_tls

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
INVALID_URL = "invalid URL: percent-encode the user and password, and write the port as a number"
_WRITABLE = ("read-write", "primary")


def read_database_url(text: str) -> URL:
    """Return a URL in SQLAlchemy's form. Raises `ValueError` with a message that contains no part of the URL.

    Several hosts are written as for libpq: `host1:5432,host2:5432` or `?host=host1,host2&port=5432,5432`. Connections
    always go to the host that accepts writes, so `target_session_attrs` is redundant.
    """
    try:
        expanded = _expand_hosts(text)
        scheme, _ = urlsplit(expanded).scheme, urlsplit(expanded).port
        url = make_url(expanded) if scheme in SCHEMES else None
    except (ArgumentError, ValueError):  # the error's text may contain a part of the password
        raise ValueError(INVALID_URL) from None
    if url is None:
        raise ValueError(f"the URL scheme must be one of {', '.join(SCHEMES)}")
    if url.query.get("target_session_attrs", _WRITABLE[0]) not in _WRITABLE:
        raise ValueError("target_session_attrs must be read-write, because every process writes")
    url = url.difference_update_query(["target_session_attrs"])
    _check_ports(url)
    database_tls(url)
    return url


def _expand_hosts(text: str) -> str:
    """Move several hosts from the network location, as for libpq, to the query, as for SQLAlchemy."""
    parts = urlsplit(text)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return text
    names, ports = zip(*map(_host_and_port, hosts.split(",")), strict=True)
    location = f"host={','.join(names)}&port={','.join(ports)}"
    query = f"{location}&{parts.query}" if parts.query else location
    return parts._replace(netloc=f"{login}{at}", query=query).geturl()


def _host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # an IPv6 address without a port
        host, port = text, "5432"
    return host.removeprefix("[").removesuffix("]"), port


def _check_ports(url: URL) -> None:
    ports = url.query.get("port", ())
    for port in ports.split(",") if isinstance(ports, str) else ports:
        if not port.isdecimal():
            raise ValueError("the port must be a number")
