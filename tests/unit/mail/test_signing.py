"""DKIM signatures. The key is for these tests alone."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from services.notifications.mail.signing import SEALED, Signer

KEY = Path(__file__).with_name("dkim_test_key.pem").read_text()
EMAIL = (
    b'Date: Sun, 29 Nov 2026 12:00:00 +0000\r\nFrom: "Demo  Store"\r\n <support@store.example>\r\n'
    b"To: dora@customer.example\r\nSubject:  Your \t parcel \r\nMessage-ID: <1@store.example>\r\n"
    b"List-Unsubscribe: <https://store.example/leave>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
    b".Hello  there \t\r\n\r\n It is on its way. \r\n\r\n\r\n"
)
# As dkimpy 1.1.8 verifies it; it refuses the same email with another recipient, or with a Reply-To added.
BODY_HASH = "oF2sx4X9e9Slapo3pJdIZCrouQR6HIKx/6xcpsOuNPw="
SIGNATURE = (
    "ThzAxSbNmB/OJPTXqO29X1aPHWTL6O3cxYF2E6S9B1nEAZlJ1F5Lxj/rLeWfRdUfk14pMsC5"
    "YA/nJHLgvPkHuycSFLWrDCyyw3XvDLhbmZbIejS+N4zamQkjMGqwDL2qGLIu8Z1C9FmHh05F"
    "QcsJFBAEChk6UVeHgFLErUrgmjk="
)


def signer() -> Signer:
    return Signer.read("store.example", "test", KEY)


def tags_of(signed: bytes) -> dict[str, str]:
    header = signed[: -len(EMAIL)].decode().removeprefix("DKIM-Signature:")
    pairs = (re.sub(r"\s", "", tag).split("=", 1) for tag in header.split(";"))
    return dict(pairs)


def test_the_signature_is_what_another_implementation_verifies() -> None:
    signed = signer().sign(EMAIL)
    assert signed.endswith(b"\r\n" + EMAIL)
    tags = tags_of(signed)
    assert (tags["d"], tags["s"], tags["bh"], tags["b"]) == ("store.example", "test", BODY_HASH, SIGNATURE)


def test_the_signature_does_not_depend_on_white_space_that_servers_change() -> None:
    changed = (
        EMAIL.replace(b"Your \t parcel ", b"Your\r\n parcel")
        .replace(b"there \t\r\n", b"there\r\n")
        .removesuffix(b"\r\n")
    )
    assert signer().sign(changed)[: -len(changed)] == signer().sign(EMAIL)[: -len(EMAIL)]


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"dora@", b"eve@"), (b"on its way", b"lost"), (b"MIME-Version", b"Reply-To: eve@x.test\r\nMIME-Version")],
)
def test_the_signature_covers_text_and_headers(old: bytes, new: bytes) -> None:
    changed = EMAIL.replace(old, new)
    assert SIGNATURE not in re.sub(r"\s", "", signer().sign(changed)[: -len(changed)].decode())


def test_headers_that_are_missing_are_sealed_and_lines_stay_short() -> None:
    signed = signer().sign(EMAIL)
    names = tags_of(signed)["h"].split(":")
    assert all(names.count(name) == (2 if f"{name}:".encode() in EMAIL.lower() else 1) for name in SEALED)
    assert max(map(len, signed[: -len(EMAIL)].split(b"\r\n"))) < 80


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def test_a_key_that_cannot_sign_is_refused_without_showing_it() -> None:
    bits_2048 = rsa.generate_private_key(65537, 2048)
    for key, reason in {
        "": "no private key in PEM form",
        KEY.replace("M", "!"): "no private key in PEM form",
        pem(bits_2048, BestAvailableEncryption(b"secret")): "without a password",
        pem(ec.generate_private_key(ec.SECP256R1()), NoEncryption()): "must be an RSA key",
    }.items():
        with pytest.raises(ValueError, match=reason) as refused:
            Signer.read("store.example", "test", key)
        assert "PRIVATE" not in str(refused.value)
    assert "PRIVATE" not in repr(signer())
