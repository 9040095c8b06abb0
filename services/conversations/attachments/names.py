"""Names of files: made safe when they are stored, and written into headers."""

import re
from contextlib import suppress
from email.message import Message
from email.utils import collapse_rfc2231_value
from unicodedata import category, normalize
from urllib.parse import quote

from shared.text import is_visible

MAX_CHARACTERS = 180
MAX_BYTES = 240  # in UTF-8: file systems accept 255
MAX_SUFFIX = 12  # characters of an ending that a shortened name keeps
UNNAMED = "file"

_SEPARATORS = re.compile(r"[/\\]")
# Control characters, invisible ones (which can reverse the direction of an ending), surrogates, line separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners are part of emoji and of words in Persian and Indic scripts.
_JOINERS = frozenset("\u200c\u200d")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)  # devices of Windows
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9 !#$&+.^_`{}~()\[\]@=,-]")


def safe_name(name: str | None) -> str:
    """Return the last part of a path without unsafe characters, shortened before its ending; never empty."""
    last = _SEPARATORS.split(normalize("NFC", name or ""))[-1]
    kept = "".join(c if c in _JOINERS or category(c) not in _UNSAFE_CATEGORIES else " " for c in last)
    kept = " ".join(kept.split()).rstrip(" .")
    if not kept or not is_visible(kept) or not kept.strip(" ."):
        return UNNAMED
    return _shortened(f"_{kept}" if _RESERVED.match(kept) else kept)


def content_disposition(kind: str, name: str) -> str:
    """Return a `Content-Disposition` header for any name: in ASCII, and as written (RFC 6266)."""
    ascii_name = normalize("NFKD", name).encode("ascii", "ignore").decode()
    ascii_name = _NOT_TOKEN.sub("_", ascii_name).strip() or UNNAMED
    header = f'{kind}; filename="{ascii_name}"'
    return header if ascii_name == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"


def name_in_header(header: str | None) -> str | None:
    """Return the file name in a `Content-Disposition` header, or None; accepts RFC 2231 and bare UTF-8."""
    if not header:
        return None
    with suppress(UnicodeError):
        header = header.encode("latin-1").decode()
    message = Message()
    message["Content-Disposition"] = header.replace("\r", " ").replace("\n", " ")
    names = [value for key, value in message.get_params((), "content-disposition") if key.lower() == "filename"]
    extended = [value for value in names if isinstance(value, tuple)]  # goes first (RFC 6266), not in `get_filename()`
    with suppress(UnicodeError):  # an encoding that is not one of texts
        return next((collapse_rfc2231_value(value).strip() for value in extended or names), None)
    return None


def _shortened(name: str) -> str:
    if len(name) <= MAX_CHARACTERS and len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    ending = f".{suffix}" if dot and len(suffix) <= MAX_SUFFIX else ""
    stem = (stem if ending else name)[: MAX_CHARACTERS - len(ending)]
    room = MAX_BYTES - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + ending
