"""Answer a caught email as its recipient would, or write to the store: through the real intake.

An answer has the quote of a usual mail program. Both have what a mail server adds that has checked their sender.
"""

import re
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid, parseaddr
from html import escape

from services.notifications.mail.listen_url import parse_listen_url

TIMEOUT = 20.0  # seconds


def compose_reply(email: EmailMessage, text: str) -> EmailMessage:
    """Return the reply to an email, with its quote below."""
    sender = email["to"].addresses[0]
    reply = EmailMessage(policy=SMTP)
    reply["From"], reply["To"] = str(email["to"]), str(email["reply-to"] or email["from"])
    reply["Subject"], reply["Date"] = f"Re: {email['subject']}", formatdate(localtime=True)
    reply["Message-ID"] = make_msgid(domain=sender.domain or "localhost")
    reply["In-Reply-To"] = reply["References"] = str(email["message-id"])
    name, address = parseaddr(str(email["from"]))
    intro = f"On {email['date']}, {name or address} <{address}> wrote:"
    plain, html = (_body(email, kind) for kind in ("plain", "html"))
    quote = "\n".join(f"> {line}".rstrip() for line in plain.rstrip().split("\n"))
    reply.set_content(f"{text}\n\n{intro}\n\n{quote}\n", cte="quoted-printable")
    typed = "".join(f"<div>{escape(line) or '<br>'}</div>" for line in text.split("\n"))
    inner = re.sub(r"(?is)^.*?<body[^>]*>|</body>.*$", "", html)
    quoted = f'<div class="gmail_attr">{escape(intro)}<br></div><blockquote class="gmail_quote">{inner}</blockquote>'
    page = f'<div dir="ltr">{typed}</div><br><div class="gmail_quote">{quoted}</div>'
    reply.add_alternative(page, subtype="html", cte="quoted-printable")
    return reply


def compose_new_email(sender: str, recipient: str, subject: str, text: str) -> EmailMessage:
    """Return an email to the store. Raises ValueError if its sender is no address."""
    email = EmailMessage(policy=SMTP)
    email["From"], email["To"], email["Subject"] = sender, recipient, " ".join(subject.split())
    addresses = email["From"].addresses
    if len(addresses) != 1 or not addresses[0].domain:
        raise ValueError("give the address of one sender")
    email["Date"], email["Message-ID"] = formatdate(localtime=True), make_msgid(domain=addresses[0].domain)
    email.set_content(text, cte="quoted-printable")
    return email


def authenticated(email: EmailMessage, authserv_id: str | None) -> EmailMessage:
    """Add what the mail server with this name found out about the sender: that nobody else wrote it."""
    if authserv_id:
        domain = email["from"].addresses[0].domain
        email["Authentication-Results"] = f"{authserv_id}; dmarc=pass header.from={domain}"
    return email


def deliver(reply: EmailMessage, url: str) -> str:
    """Deliver a reply to the intake; return what the intake answered."""
    listen = parse_listen_url(url)
    recipient = reply["to"].addresses[0].addr_spec
    kind = smtplib.LMTP if listen.is_lmtp else smtplib.SMTP
    try:
        with kind(listen.path or listen.host, listen.port, timeout=TIMEOUT) as server:
            server.ehlo_or_helo_if_needed()
            for code, answer in (server.mail(reply["from"].addresses[0].addr_spec), server.rcpt(recipient)):
                if code >= 400:  # noqa: PLR2004 - an error
                    return f"The intake refused it: {code} {answer.decode(errors='replace')}"
            code, answer = server.data(reply.as_bytes())
            return f"The intake answered: {code} {answer.decode(errors='replace')}"
    except (OSError, smtplib.SMTPException) as error:
        return f"The intake did not answer: {error}"


def _body(email: EmailMessage, kind: str) -> str:
    part = email.get_body([kind])
    return str(part.get_content()) if part else ""
