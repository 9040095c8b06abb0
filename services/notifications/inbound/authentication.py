"""What our own mail server found out about a sender: its `Authentication-Results` (RFC 8601), and nobody else's."""

import re
from dataclasses import dataclass
from email.message import Message

_COMMENT = re.compile(r"\([^()]*\)")
_RESULT = re.compile(r"\s*(dmarc|dkim)\s*=\s*(\w+)(.*)", re.IGNORECASE | re.DOTALL)
_DOMAIN = re.compile(r"\bheader\.(?:d|i)\s*=\s*\"?(?:[^\s;@\"]*@)?([A-Za-z0-9.-]+)", re.IGNORECASE)


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
            server, *results = _COMMENT.sub(" ", " ".join(str(raw).split())).split(";")
            if server.split()[:1] and server.split()[0].lower() == self.authserv_id.lower():
                return _decision(results, mailbox.rpartition("@")[2])
        return None


def _decision(results: list[str], domain: str) -> bool | None:
    signed = False
    for result in results:
        match = _RESULT.match(result)
        if match is None:
            continue
        method, value = match[1].lower(), match[2].lower()
        if method == "dmarc" and value in {"pass", "fail"}:
            return value == "pass"
        found = _DOMAIN.search(match[3])
        signed = signed or (method == "dkim" and value == "pass" and found is not None and _aligned(found[1], domain))
    return True if signed else None


def _aligned(signer: str, domain: str) -> bool:
    signer = signer.lower().rstrip(".")
    return "." in signer and (signer == domain or domain.endswith(f".{signer}") or signer.endswith(f".{domain}"))
