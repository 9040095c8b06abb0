"""The page on which a customer stops emails, by the signed link in each of them and without signing in.

Programs that scan emails follow links: only a POST changes anything. Mail programs post `List-Unsubscribe=One-Click`
(RFC 8058). The page says nothing of the conversation, because emails are forwarded.
"""

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse
from jinja2 import FileSystemLoader
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.dependencies import CurrentSettings
from services.notifications.delivery.muting import Muting, Wish, read_muting, set_muting
from services.notifications.delivery.suppression import is_suppressed
from services.notifications.mail import message
from services.notifications.mail.unsubscribe_links import PATH, read_unsubscribe_token
from services.notifications.models import Email, Person, SendingControl
from services.notifications.rules import Audience
from services.notifications.settings import ApiSettings
from services.notifications.web.errors import accepted_languages
from shared.api.body_size import too_large
from shared.api.dependencies import DbSession
from shared.problems import Invalid
from shared.translations import TranslatedEnvironment, find_language

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 1.0625rem/1.5 system-ui, sans-serif; color: #1f2933; background: #f2f4f7; }
main { box-sizing: border-box; max-width: 34rem; margin: 8vh auto; padding: 1.5rem; background: #fff;
  border: 1px solid #dfe3e8; border-radius: .5rem; overflow-wrap: anywhere; }
h1 { margin: 0 0 1rem; font-size: 1.375rem; line-height: 1.3; }
a { color: #1d5fbf; }
button { display: block; width: 100%; min-height: 2.75rem; margin: .75rem 0 0; padding: .5rem 1rem; font: inherit;
  color: inherit; text-align: start; background: transparent; border: 1px solid #7b8794; border-radius: .375rem; }
button:hover { border-color: #1d5fbf; }
@media (max-width: 36rem) { main { margin: 0 auto; border: 0; border-radius: 0; } }
@media (prefers-color-scheme: dark) {
  body { color: #edf0f3; background: #14181d; }
  main { background: #1f252c; border-color: #38414b; }
  a { color: #8ab8ff; }
}
"""
_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

MAX_FORM_BYTES = 4096  # one field

Token = Annotated[str, PathParameter(max_length=100)]

router = APIRouter(prefix=PATH.rstrip("/"), include_in_schema=False)


@router.get("/{unsubscribe_token}")
async def show_emails(
    request: Request, unsubscribe_token: Token, session: DbSession, settings: CurrentSettings
) -> HTMLResponse:
    """Show which emails the recipient gets, with a button for each other choice."""
    email = await _find_email(session, unsubscribe_token)
    if email is None:
        return await _page(request, session, settings, None, None)
    return await _page(request, session, settings, email, await read_muting(session, *email))


@router.post("/{unsubscribe_token}")
async def choose_emails(
    request: Request, unsubscribe_token: Token, session: DbSession, settings: CurrentSettings
) -> HTMLResponse:
    """Stop emails or turn them on again, and show the page."""
    email = await _find_email(session, unsubscribe_token)
    if email is None:
        return await _page(request, session, settings, None, None)
    if len(await request.body()) > MAX_FORM_BYTES:
        raise too_large(MAX_FORM_BYTES)
    form = await request.form()
    wish = Wish.CONVERSATION if form.get("List-Unsubscribe") == "One-Click" else form.get("emails")
    if wish not in set(Wish):
        raise Invalid("Send conversation, all or none, or `List-Unsubscribe=One-Click`.", ["body", "emails"])
    await set_muting(session, *email, Wish(str(wish)))
    return await _page(request, session, settings, email, await read_muting(session, *email))


async def _find_email(session: AsyncSession, token: str) -> tuple[str, UUID] | None:
    """Return the recipient and the conversation of the email with this link."""
    key = (await session.scalars(select(SendingControl.leave_key))).one()
    email_id = read_unsubscribe_token(key, token)
    query = select(Email.recipient_id, Email.conversation_id).where(
        Email.id == email_id, Email.audience == Audience.CUSTOMER
    )
    row = (await session.execute(query)).one_or_none() if email_id else None
    return (row.recipient_id, row.conversation_id) if row else None


async def _page(
    request: Request,
    session: AsyncSession,
    settings: ApiSettings,
    email: tuple[str, UUID] | None,
    muting: Muting | None,
) -> HTMLResponse:
    person = await session.get(Person, email[0]) if email else None
    messages = f"{settings.public_url.rstrip('/')}/dashboard/messages/"
    suppressed = await is_suppressed(session, email[0]) if email else False
    locale = person.locale if person else None
    return unsubscribe_page(request, settings, locale, muting, messages, suppressed=suppressed)


def unsubscribe_page(
    request: Request,
    settings: ApiSettings,
    locale: str | None,
    muting: Muting | None,
    messages: str,
    *,
    fields: Mapping[str, str] = MappingProxyType({}),
    suppressed: bool = False,
    is_about_one: bool = True,
    lost: bool = False,
) -> HTMLResponse:
    """Return the page, a 404 without `muting`. `fields` are hidden in its form.

    `messages` is where the answers are. `suppressed`: emails to the address came back. `is_about_one`: it can stop the
    emails about one conversation. `lost`: the last choice was not saved.
    """
    language = find_language(message.LOCALE, [locale, *accepted_languages(request)])
    loader = FileSystemLoader(Path(message.__file__).parent / "templates")
    environment = TranslatedEnvironment(language.translations, loader=loader)
    text = environment.get_template("unsubscribe.html.jinja").render(
        language=language.locale.language,
        direction=language.locale.text_direction,
        store=settings.store_name,
        style=STYLE,
        muting=muting,
        messages=messages,
        fields=fields,
        suppressed=suppressed,
        is_about_one=is_about_one,
        lost=lost,
    )
    return HTMLResponse(text, 404 if muting is None else 200, HEADERS)
