"""Decode text in the charset that an email names, known or not. Nothing here fails."""

import codecs
import re
from typing import Final

# Labels that real email carries and Python does not know.
_LABELS: Final = {
    "iso-8859-8-i": "iso8859-8",
    "iso-8859-8-e": "iso8859-8",
    "iso-8859-6-i": "iso8859-6",
    "iso-8859-6-e": "iso8859-6",
    "unicode-1-1-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "x-sjis": "cp932",
    "x-gbk": "gb18030",
    "x-euc-jp": "euc_jp",
    "x-mac-roman": "mac_roman",
    "macintosh": "mac_roman",
    "ansi": "cp1252",
    "x-user-defined": "cp1252",
    "utf8mb4": "utf-8",
}
# Supersets that senders mean, as browsers read them.
_MEANT: Final = {
    "ascii": "utf-8",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
# Codecs of Python that are no charsets of text. Some take time that is quadratic in their input.
_NO_CHARSETS: Final = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}
_CODE_PAGE = re.compile(r"(?:cp|windows|ibm|x-cp|x-windows)[-_ ]?(\d{3,4})")


def decode(data: bytes, charset: str | None) -> str:
    """Return bytes as text: in their charset, else as UTF-8, else as Windows-1252 with a mark for each unknown byte."""
    codec = _find_codec(charset) if charset else None
    for name in (codec, "utf-8"):
        if name is not None:
            try:
                return data.decode(name)
            except (UnicodeError, ValueError):
                continue
    fallback = codec if codec not in {None, "utf-8"} else "cp1252"
    try:
        return data.decode(fallback or "cp1252", "replace")
    except (UnicodeError, ValueError):
        return data.decode("cp1252", "replace")


def _find_codec(charset: str) -> str | None:
    label = charset.strip("\"' \t").lower()[:40]
    label = _LABELS.get(label, label)
    page = _CODE_PAGE.fullmatch(label)
    try:
        info = codecs.lookup(f"cp{page[1]}" if page else label)
    except (LookupError, ValueError):
        return None
    if info.name.replace("-", "_") in _NO_CHARSETS or not getattr(info, "_is_text_encoding", False):
        return None
    return _MEANT.get(info.name, info.name)
