"""The mail catcher of `make run`: accepts every email by SMTP, delivers none, and shows them on a web page.

It stores emails byte for byte in a directory, as `1.eml`, `2.eml` …. Its pages load nothing from elsewhere.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import jinja2
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.local.mailbox_reply import authenticated, compose_new_email, compose_reply, deliver
from shared.process.running import create_server

HOST = "127.0.0.1"
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'"
LONGEST_REPLY = 200_000  # bytes of a form
EMAIL_POLICY = "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("mailbox_pages")), autoescape=True)


@dataclass(frozen=True)
class Mailbox:
    """The caught emails in a directory, numbered from 1."""

    directory: Path

    def numbers(self) -> list[int]:
        """Return the numbers of all emails, newest first."""
        return sorted((int(path.stem) for path in self.directory.glob("*.eml")), reverse=True)

    def keep(self, content: bytes) -> int:
        """Store an email and return its number."""
        number = next(iter(self.numbers()), 0) + 1
        new = self.directory / "new"
        new.write_bytes(content)
        new.rename(self.directory / f"{number}.eml")
        return number

    def source(self, name: str) -> tuple[int, bytes]:
        """Return the number and bytes of an email, or of the newest for `latest`. Raise 404 if there is none."""
        number = next(iter(self.numbers()), 0) if name == "latest" else int(name) if name.isdecimal() else 0
        try:
            return number, (self.directory / f"{number}.eml").read_bytes()
        except FileNotFoundError:
            raise HTTPException(404, "There is no such email.") from None

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Accept an email. aiosmtpd calls this after the final dot."""
        assert isinstance(envelope.content, bytes)  # noqa: S101 - str only with `decode_data`
        return f"250 OK kept as {self.keep(envelope.content)}"


@dataclass(frozen=True)
class Intake:
    """Where what is written here goes: the address of the intake, the name of the mail server, the store's address."""

    url: str
    authserv_id: str | None = None
    inbound_address: str | None = None


def make_app(mailbox: Mailbox, intake: Intake | None = None) -> Starlette:
    """Build the web pages, and for programs `/mails` as JSON and `/mails/{number or latest}/text`.

    With an intake, an email that may be answered has a form for that, and the list has one to write to the store.
    """

    def page(request: Request) -> Response:
        emails = [_summary(number, _parse(mailbox.source(str(number))[1])) for number in mailbox.numbers()]
        if request.url.path == "/mails":
            return JSONResponse(emails)
        return _page("list", emails=emails, inbound_address=intake and intake.inbound_address)

    def email(request: Request) -> Response:
        number, source = mailbox.source(request.path_params["name"])
        parsed = _parse(source)
        answers = intake is not None and "reply-to" in parsed
        summary, said = _summary(number, parsed), request.query_params.get("said", "")
        values = {"headers": parsed.items(), "text": _body(parsed, "plain"), "answers": answers, "said": said}
        return _page("email", email=summary, **values)

    def text(request: Request) -> Response:
        return PlainTextResponse(_body(_parse(mailbox.source(request.path_params["name"])[1]), "plain"))

    def html(request: Request) -> Response:
        content = _body(_parse(mailbox.source(request.path_params["name"])[1]), "html")
        return HTMLResponse(content, headers={"Content-Security-Policy": EMAIL_POLICY})

    def source(request: Request) -> Response:
        return Response(mailbox.source(request.path_params["name"])[1], media_type="text/plain")

    paths: dict[str, Callable[[Request], Response]] = {
        "/": page,
        "/mails": page,
        "/mails/{name}": email,
        "/mails/{name}/text": text,
        "/mails/{name}/html": html,
        "/mails/{name}/source": source,
    }
    routes = [Route(path, endpoint) for path, endpoint in paths.items()]
    if intake is not None:
        routes += _writing(mailbox, intake)
    return Starlette(routes=routes)


def _writing(mailbox: Mailbox, intake: Intake) -> list[Route]:
    async def reply(request: Request) -> Response:
        number, source = mailbox.source(request.path_params["name"])
        message = compose_reply(_parse(source), (await _fields(request))["body"])
        return await send(message, f"/mails/{number}")

    async def write(request: Request) -> Response:
        fields = await _fields(request)
        try:
            message = compose_new_email(fields["from"], intake.inbound_address or "", fields["subject"], fields["body"])
        except ValueError as error:
            raise HTTPException(400, f"The email cannot be sent: {error}.") from None
        return await send(message, "/write")

    def form(request: Request) -> Response:
        return _page("write", inbound_address=intake.inbound_address, said=request.query_params.get("said", ""))

    async def send(message: EmailMessage, page: str) -> Response:
        said = await asyncio.to_thread(deliver, authenticated(message, intake.authserv_id), intake.url)
        return RedirectResponse(f"{page}?{urlencode({'said': said})}", 303)

    routes = [Route("/mails/{name}/reply", reply, methods=["POST"])]
    if intake.inbound_address:
        routes += [Route("/write", write, methods=["POST"]), Route("/write", form)]
    return routes


async def _fields(request: Request) -> dict[str, str]:
    """Return the fields of a form, with line feeds. Raises an error for another site's form, and a long one."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
        raise HTTPException(403, "Another site's page must not send emails.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_REPLY:
            raise HTTPException(413, "The email is too long.")
    given = parse_qs(body.decode(errors="replace"))
    return {name: "\n".join(given.get(name, [""])[0].splitlines()) for name in ("from", "subject", "body")}


async def serve(directory: Path, web_port: int, smtp_port: int, host: str, intake: Intake | None) -> None:
    """Catch emails until a signal."""
    mailbox, loop = Mailbox(directory), asyncio.get_running_loop()
    smtp = await loop.create_server(
        lambda: SMTP(mailbox, hostname="localhost", ident="Mail catcher", enable_SMTPUTF8=True),
        host,
        smtp_port,
    )
    async with smtp:
        await create_server(make_app(mailbox, intake), host, web_port).serve()


def _page(name: str, **values: Any) -> Response:
    content = PAGES.get_template(f"{name}.html.jinja").render(values)
    return HTMLResponse(content, headers={"Content-Security-Policy": PAGE_POLICY})


def _parse(source: bytes) -> EmailMessage:
    return message_from_bytes(source, policy=policy.default)


def _summary(number: int, email: EmailMessage) -> dict[str, Any]:
    names = ("from", "to", "subject", "date", "message-id")
    return {"number": number, **{name.replace("-", "_"): str(email.get(name, "")) for name in names}}


def _body(email: EmailMessage, kind: str) -> str:
    part = email.get_body([kind])
    return part.get_content() if part else ""


def main() -> None:
    """Run the mail catcher as a process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--web-port", type=int, required=True)
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--inbound", help="where replies are delivered, as CHATS_INBOUND_LISTEN")
    parser.add_argument("--authserv-id", help="CHATS_INBOUND_AUTHSERV_ID")
    parser.add_argument("--inbound-address", help="CHATS_INBOUND_ADDRESS")
    options = parser.parse_args()
    intake = Intake(options.inbound, options.authserv_id, options.inbound_address) if options.inbound else None
    asyncio.run(serve(options.directory, options.web_port, options.smtp_port, options.host, intake))


if __name__ == "__main__":
    main()
