"""A certificate authority for tests, and servers that use its certificates."""

import asyncio
import contextlib
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # what a PostgreSQL client sends before TLS


@dataclass(frozen=True)
class Authority:
    """Issues certificates for 127.0.0.1 and for one other name; clients trust `file`."""

    directory: Path

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("Test authority", key, "Test authority", key, authority=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for host in ("127.0.0.1", "elsewhere.test"):
            host_key = ec.generate_private_key(ec.SECP256R1())
            signed = _certificate(host, host_key, "Test authority", key, authority=False)
            private = host_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            (self.directory / host).write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))

    @property
    def file(self) -> Path:
        """The path of the authority's own certificate."""
        return self.directory / "authority.pem"

    def context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """Return the TLS context of a server with the certificate for `host`."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.directory / host)
        return context


@contextlib.asynccontextmanager
async def tls_front(port: int, context: ssl.SSLContext, *, after_request: bool = False) -> AsyncIterator[int]:
    """Terminate TLS for a server; yield the new port. With `after_request`, start TLS as PostgreSQL does."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            if after_request:
                assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(context)
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(forth):
                both = [asyncio.create_task(_pipe(*ends)) for ends in ((reader, forth), (back, writer))]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if after_request else context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _pipe(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.Certificate:
    now, public = datetime.now(UTC), key.public_key()
    alternative = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name.replace(" ", "-"))
    return (
        x509.CertificateBuilder(_named(issuer), _named(name), public, x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        # RFC 5280 requires it of an authority, and Python from 3.13 on checks this.
        .add_extension(_key_usage(may_sign=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _key_usage(*, may_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not may_sign,
        key_cert_sign=may_sign,
        crl_sign=may_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
