"""What our own mail server found out about a sender: its `Authentication-Results` (RFC 8601), and nobody else's."""

import re
from dataclasses import dataclass
from email.message import Message

_PIECES = re.compile(r"\\.|[\"();]|[^\\\"();]+|\\", re.DOTALL)
_RESULT = re.compile(r"\s*(dmarc|dkim)\s*=\s*(\w+)(.*)", re.IGNORECASE | re.DOTALL)
_SIGNER = re.compile(r"\bheader\.(?:d|i)\s*=\s*(?:[^\s@=]*@)?([A-Za-z0-9.-]+)(?=\s|$)", re.IGNORECASE)
_FROM = re.compile(r"\bheader\.from\s*=\s*(?:[^\s@=]*@)?([A-Za-z0-9.-]+)(?=\s|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TrustedResults:
    """The name of our mail server in its results, and whether a sender must authenticate."""

    authserv_id: str | None = None
    required: bool = False

    def of(self, message: Message, mailbox: str) -> bool | None:
        """Return whether an email is from the address in its `From`; None if that is not known.

        DMARC decides, else a DKIM signature of the address's domain, or of one above or below it. Of several headers
        with our server's name the first counts: it is the newest, which our server wrote.
        """
        if self.authserv_id is None:
            return None
        for raw in message.get_all("authentication-results") or ():
            server, *results = _split(" ".join(str(raw).split()))
            if server.split()[:1] and server.split()[0].lower() == self.authserv_id.lower():
                return _decision(results, mailbox.rpartition("@")[2])
        return None


def _split(value: str) -> list[str]:
    """Split a header at its semicolons, without comments and quoted texts: the sender chooses what stands in those."""
    parts, depth, is_quoted = [""], 0, False
    for piece in _PIECES.findall(value):
        if piece == '"' and not depth:
            is_quoted = not is_quoted
        elif is_quoted:
            continue
        elif piece in {"(", ")"}:
            depth = max(0, depth + (1 if piece == "(" else -1))
        elif not depth and piece == ";":
            parts.append("")
        elif not depth:
            parts[-1] += piece
    return parts


def _decision(results: list[str], domain: str) -> bool | None:
    signed = False
    for result in results:
        match = _RESULT.match(result)
        if match is None:
            continue
        method, value = match[1].lower(), match[2].lower()
        if method == "dmarc" and value == "fail":
            return False
        if method == "dmarc" and value == "pass":
            author = _FROM.search(match[3])
            return True if author is None or _aligned(author[1], domain) else None
        found = _SIGNER.search(match[3])
        signed = signed or (method == "dkim" and value == "pass" and found is not None and _aligned(found[1], domain))
    return True if signed else None


def _aligned(signer: str, domain: str) -> bool:
    signer = signer.lower().rstrip(".")
    return "." in signer and (signer == domain or domain.endswith(f".{signer}") or signer.endswith(f".{domain}"))
