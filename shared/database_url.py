"""The URL of a database as operators write it: one host, or several of which one takes writes."""

from urllib.parse import urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared.tls import database_tls

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_WRITABLE = ("read-write", "primary")


def read_database_url(text: str) -> URL:
    """Return a URL as SQLAlchemy writes it. Raises `ValueError`, whose text holds no part of the URL.

    Several hosts are written as libpq takes them, `host1:5432,host2:5432` or `?host=host1,host2&port=5432,5432`. Every
    connection asks for the one that takes writes, so `target_session_attrs` says nothing new.
    """
    try:
        spread = _spread(text)
        scheme, _ = urlsplit(spread).scheme, urlsplit(spread).port
        url = make_url(spread) if scheme in SCHEMES else None
    except (ArgumentError, ValueError):  # its text may be a part of the password
        raise ValueError(
            "it cannot be read: percent-encode the user and the password, and give the port as a number"
        ) from None
    if url is None:
        raise ValueError(f"its URL scheme must be one of {', '.join(SCHEMES)}")
    if url.query.get("target_session_attrs", _WRITABLE[0]) not in _WRITABLE:
        raise ValueError("target_session_attrs must be read-write: every process writes")
    url = url.difference_update_query(["target_session_attrs"])
    _check_ports(url)
    database_tls(url)
    return url


def _spread(text: str) -> str:
    """Move several hosts from where libpq has them to where SQLAlchemy does."""
    parts = urlsplit(text)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return text
    names, ports = zip(*map(_host_and_port, hosts.split(",")), strict=True)
    asked = f"host={','.join(names)}&port={','.join(ports)}"
    query = f"{asked}&{parts.query}" if parts.query else asked
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
            raise ValueError("a port is a number")
