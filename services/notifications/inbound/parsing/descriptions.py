"""What the headers of a part say of it: its type, the parameters that are read, and whether it is a file.

The email package takes a header apart at each look at one of its parameters. Here that is done once, if the header has
the usual form, which can be read in one way only. The email package reads every other one, and a test compares both.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from email import policy
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any, Final

# Printable characters of ASCII but those that quote or end a value.
_VALUE: Final = r'(?:"[ !#-:=?-\[\]-~]*"|[!#-:=?-\[\]-~]+)'
_USUAL_TYPE: Final = re.compile(rf"([\w.+-]+/[\w.+-]+)\s*((?:;\s*[\w-]+={_VALUE}\s*)*)", re.ASCII)
_PARAMETER: Final = re.compile(rf";\s*([\w-]+)=({_VALUE})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Description:
    """What the headers of a part say. `flowed` and `joined`: `format` and `delsp` of RFC 3676."""

    content_type: str
    boundary: str
    charset: str
    flowed: bool
    joined: bool
    disposition: str
    file_name: str


def described(part: Message) -> Description:
    """Return what the headers of a part say. Never raises."""
    known = part.__dict__.get("_described")
    if isinstance(known, Description):
        return known
    described = _describe(part)
    part.__dict__["_described"] = described
    return described


def _describe(part: Message) -> Description:
    content_type, disposition = raw_header(part, "content-type"), raw_header(part, "content-disposition")
    usual = _USUAL_TYPE.fullmatch(content_type)
    if usual is None:
        type_ = str(safely(part.get_content_type, "application/octet-stream"))
        parameters = {name: _read_parameter(part, name) for name in ("boundary", "charset", "format", "delsp")}
    else:
        type_ = usual[1].lower()
        found = reversed(_PARAMETER.findall(usual[2]))  # the first of several counts
        parameters = {name.lower(): value.strip('"') for name, value in found}
    return Description(
        type_,
        parameters.get("boundary", "").rstrip(),
        parameters.get("charset", "").lower(),
        parameters.get("format", "").lower() == "flowed",
        parameters.get("delsp", "").lower() == "yes",
        str(safely(part.get_content_disposition, "")) if disposition else "",
        _read_file_name(part, disposition, content_type),
    )


def _read_parameter(part: Message, name: str) -> str:
    match name:
        case "boundary":
            return safely(part.get_boundary, None) or ""
        case "charset":
            return safely(part.get_content_charset, None) or ""
        case _:
            return str(safely(lambda: part.get_param(name), None) or "")


def _read_file_name(part: Message, *raws: str) -> str:
    """Return the name of a file: from the header's own form, or as a decoded word, which many programs write there."""
    for header, parameter, raw in zip(("content-disposition", "content-type"), ("filename", "name"), raws, strict=True):
        if parameter not in raw.lower():
            continue
        if raw.isascii() and "=?" not in raw:
            name = safely(lambda: part.get_param(parameter, None, header), None)  # noqa: B023 - called at once
            text = safely(lambda: collapse_rfc2231_value(name), "") if name else ""  # noqa: B023 - as above
        else:
            parsed = safely(lambda: policy.default.header_fetch_parse(header, raw), None)  # noqa: B023 - as above
            text = getattr(parsed, "params", {}).get(parameter, "")
        if str(text).strip():
            return " ".join(str(text).split())
    return ""


def raw_header(message: Message, name: str) -> str:
    """Return the first header of a name as it was sent; empty if there is none."""
    return next((value for key, value in message.raw_items() if key.lower() == name), "")


def safely(read: Callable[[], Any], default: Any) -> Any:
    """Return what the email package reads. On some malformed headers it raises errors of its code."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - as above
        return default
