"""DKIM signatures over an email's final bytes (RFC 6376): rsa-sha256, relaxed/relaxed.

The library for this, dkimpy, has had no release since July 2024, exists only as source, which the lock file cannot pin
with its build tools, and takes ten times as long. `cryptography` signs; here is what RFC 6376 says to sign.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from textwrap import wrap
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:  # 2 MiB of memory, which only processes with a key need
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

MIN_BITS: Final = 1024  # RFC 8301: receivers ignore signatures of shorter keys
# Those that an email must have once, and those that lead away from it. They are signed even when they are missing, and
# once more when they are there, so that none can be added on the way. RFC 8058 asks for the last two.
SEALED: Final = (
    *("from", "to", "subject", "date", "message-id", "reply-to", "mime-version", "content-type"),
    *("list-unsubscribe", "list-unsubscribe-post"),
)
ALSO_SIGNED: Final = ("in-reply-to", "references", "list-id", "auto-submitted")
_NEXT_HEADER = re.compile(rb"\r\n(?![ \t])")
_SPACE = re.compile(rb"[ \t]+")


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs emails for a domain. `public_key` is the value of `p=` in the record `SELECTOR._domainkey.DOMAIN`."""

    domain: str
    selector: str
    public_key: str
    _private_key: "RSAPrivateKey" = field(repr=False)

    @classmethod
    def read(cls, domain: str, selector: str, key: str) -> Self:
        """Return the signer with a private RSA key in PEM form. Raises ValueError, without the key in its text."""
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - as above
            Encoding,
            PublicFormat,
            load_pem_private_key,
        )

        try:
            private_key = load_pem_private_key(key.strip().encode(), password=None)
        except (TypeError, ValueError):  # encrypted, or no key
            raise ValueError("this is no private key in PEM form without a password") from None
        if not isinstance(private_key, RSAPrivateKey):
            raise ValueError("the key must be an RSA key: many receivers check no other signature")  # noqa: TRY004 - a setting
        if private_key.key_size < MIN_BITS:
            raise ValueError(f"the key has {private_key.key_size} bits and needs {MIN_BITS}, better 2048")
        public = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(domain, selector, b64encode(public).decode(), private_key)

    def sign(self, content: bytes) -> bytes:
        """Return an email, whose lines end with CRLF, with its signature as the first header."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - as above

        head, _, body = content.partition(b"\r\n\r\n")
        headers = dict(map(_relaxed_header, _NEXT_HEADER.split(head)))
        signed = [name for name in (*SEALED, *ALSO_SIGNED) if name.encode() in headers]
        tags = (
            f"d={self.domain}",
            f"s={self.selector}",
            f"h={':'.join((*signed, *SEALED))}",
            f"bh={b64encode(sha256(_relaxed_body(body)).digest()).decode()}",
            "b=",
        )
        unsigned = f"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n {_folded('; '.join(tags))}".encode()
        lines = [name.encode() + b":" + headers[name.encode()] for name in signed]
        data = b"\r\n".join([*lines, b":".join(_relaxed_header(unsigned))])
        signature = b64encode(self._private_key.sign(data, PKCS1v15(), SHA256())).decode()
        return b"".join([unsigned, b"\r\n ", "\r\n ".join(wrap(signature, 72)).encode(), b"\r\n", content])


def _relaxed_header(header: bytes) -> tuple[bytes, bytes]:
    """Return a header's name and value in the relaxed form (RFC 6376, 3.4.2)."""
    name, _, value = header.partition(b":")
    return name.strip().lower(), _SPACE.sub(b" ", value.replace(b"\r\n", b"")).strip()


def _relaxed_body(body: bytes) -> bytes:
    """Return a body in the relaxed form (RFC 6376, 3.4.4)."""
    body = _SPACE.sub(b" ", body + b"\r\n").replace(b" \r\n", b"\r\n").rstrip(b"\r\n")
    return body + b"\r\n" if body else b""


def _folded(value: str) -> str:
    """Return the value of a header in several lines; a list of names may be folded at its colons."""
    lines = wrap(value.replace(":", ": "), 72, break_long_words=False, break_on_hyphens=False)
    return "\r\n ".join(line.replace(": ", ":") for line in lines)
