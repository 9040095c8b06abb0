"""Headers and parts of emails as bytes that every mail server accepts."""

from binascii import b2a_base64, b2a_qp
from email.header import Header
from unicodedata import category

from shared.text import preview

MAX_NAME = 100
MAX_LINE = 900  # characters of a header without folding; a line may have 998
NOT_ASCII = bytes(range(128, 256))
# Control characters, lone surrogates, line and paragraph separators.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# Embeddings, overrides and isolates: in a header they would reorder the text after them.
DIRECTION_CONTROLS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def body_part(kind: str, content: str) -> bytes:
    """Return a text with the headers of its encoding.

    The `email` package would take longer for it than all the rest together. Uses base64 if it is shorter, as for
    Chinese or emoji, which quoted-printable makes three times as long.
    """
    data = content.replace("\n", "\r\n").encode()
    if len(data.translate(None, NOT_ASCII)) > len(data) * 0.8:
        encoding, encoded = "quoted-printable", b2a_qp(data)
    else:
        encoding, line = "base64", b2a_base64(data, newline=False)
        encoded = b"\r\n".join(line[start : start + 76] for start in range(0, len(line), 76))
    head = f'Content-Type: text/{kind}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + encoded


def header_line(text: str) -> str:
    """Return `text` without characters that could end or reorder a header, with white space collapsed."""
    if not text.isprintable():
        text = "".join(c if category(c) not in UNPRINTABLE else " " for c in text if c not in DIRECTION_CONTROLS)
    return " ".join(text.split())


def encoded_header(header: str, text: str) -> str:
    """Return the value of a header, encoded and folded if it needs that."""
    if text.isascii() and "=?" not in text and len(text) < MAX_LINE:
        return text
    return Header(text, "utf-8", header_name=header).encode(linesep="\r\n")


def mailbox_header(header: str, name: str, address: str) -> str:
    """Return the value of a header that holds an address with a name."""
    name = preview(header_line(name), MAX_NAME)
    if not name:
        return address
    encoded = encoded_header(header, name)
    if encoded == name:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        encoded = f'"{quoted}"'
    return f"{encoded}\r\n <{address}>"
