"""The page on which an admin chooses which notifications are in the bell and which are emailed. It needs no script.

The style is that of the conversations service's pages.
"""

import re
from collections.abc import Mapping
from datetime import time
from functools import cache
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from babel.support import NullTranslations
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.admin_queries import save_preferences
from services.notifications.api.dependencies import CurrentSettings
from services.notifications.delivery.admin_records import Choice, Preferences, load_preferences
from services.notifications.delivery.timing import QuietHours, Timing, load_timing
from services.notifications.models import Person
from services.notifications.rules import NotificationType
from services.notifications.settings import ApiSettings
from services.notifications.web.errors import LOCALE, POLICY, STYLE, PageRoute
from services.notifications.web.session import authenticate
from shared.api.dependencies import DbSession
from shared.auth.tokens import SessionToken
from shared.problems import Unauthenticated
from shared.settings import Role
from shared.time_zones import known_zone
from shared.translations import TranslatedEnvironment, find_language

PATH = "/notifications/preferences"
ENTRY = "/admin/dashboard/conversation/notifications/"  # of the conversations service

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Locale = Annotated[str | None, Query(max_length=35)]
Flag = Annotated[bool, Query()]


@router.get(PATH)
async def show_preferences(
    request: Request,
    session: DbSession,
    settings: CurrentSettings,
    locale: Locale = None,
    *,
    fresh: Flag = False,
    saved: Flag = False,
    lost: Flag = False,
) -> Response:
    """Show the form. Without a valid session token, go where it is renewed, unless the caller comes from there."""
    try:
        token = await authenticate(request, session, Role.ADMIN)
    except Unauthenticated:
        if fresh:
            raise
        return _redirect(ENTRY)
    preferences = await load_preferences(session, token.principal.id)
    timing = await load_timing(session, token.principal.id)
    written = {
        "quiet_start": timing.quiet.start.isoformat("minutes") if timing.quiet else "",
        "quiet_end": timing.quiet.end.isoformat("minutes") if timing.quiet else "",
        "digest_at": timing.digest_at.isoformat("minutes") if timing.digest_at else "",
    }
    return await _page(session, settings, token, preferences, written, locale, saved=saved, lost=lost)


@router.post(PATH)
async def submit_preferences(
    request: Request, session: DbSession, settings: CurrentSettings, locale: Locale = None
) -> Response:
    """Save the form, and show it again."""
    try:
        token = await authenticate(request, session, Role.ADMIN)
    except Unauthenticated:
        return _redirect(f"{ENTRY}?lost=true")
    form = await request.form()
    chosen: Preferences = {
        type_: Choice(bell="bell" in form.getlist(type_), email="email" in form.getlist(type_))
        for type_ in NotificationType
        if type_ != NotificationType.NEW_MESSAGE
    }
    written = {name: str(form.get(name, "")).strip() for name in ("quiet_start", "quiet_end", "digest_at")}
    try:
        timing = _read_timing(**written)
    except ValueError:
        return await _page(session, settings, token, chosen, written, locale, wrong=True)
    await save_preferences(session, token.principal.id, chosen, timing)
    return _redirect(_address(locale, saved="true"))


async def _page(
    session: AsyncSession,
    settings: ApiSettings,
    token: SessionToken,
    preferences: Preferences,
    written: Mapping[str, str],
    locale: str | None,
    **notes: bool,
) -> Response:
    person = await session.get(Person, token.principal.id)
    language = find_language(LOCALE, [locale, person.locale if person is not None else None])
    page = _environment(language.translations).get_template("preferences.html")
    zone = known_zone([person.zoneinfo if person is not None else None, settings.time_zone])
    html = page.render(
        language=language.locale.language,
        store_name=settings.store_name,
        name=(person.name if person is not None else None) or token.principal.id,
        csrf=token.csrf,
        style=STYLE,
        action=_address(locale),
        choices=[(str(type_), choice) for type_, choice in preferences.items()],
        hours=[f"{hour:02}:00" for hour in range(24)],
        zone=str(zone),
        **written,
        **({"saved": False, "lost": False, "wrong": False} | notes),
    )
    status = HTTPStatus.UNPROCESSABLE_ENTITY if notes.get("wrong") else HTTPStatus.OK
    return HTMLResponse(html, status, {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"})


def _read_timing(quiet_start: str, quiet_end: str, digest_at: str) -> Timing:
    """Return when emails come. Raises ValueError for what is no time, or for one end of quiet hours without another."""
    quiet = QuietHours(_read_time(quiet_start), _read_time(quiet_end)) if quiet_start or quiet_end else None
    if quiet is not None and quiet.start == quiet.end:
        raise ValueError
    return Timing(quiet, _read_time(digest_at) if digest_at else None)


def _read_time(text: str) -> time:
    """Return a time as browsers send it, in any script's digits only as these."""
    if not re.fullmatch(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?", text):
        raise ValueError(text)
    return time.fromisoformat(text).replace(second=0)


def _address(locale: str | None, **more: str) -> str:
    query = urlencode({**({"locale": locale} if locale else {}), **more})
    return f"{PATH}?{query}" if query else PATH


def _redirect(url: str) -> Response:
    return RedirectResponse(url, HTTPStatus.SEE_OTHER)


@cache
def _environment(translations: NullTranslations) -> Environment:
    return TranslatedEnvironment(translations, loader=PackageLoader(__package__))
