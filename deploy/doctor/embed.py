"""Check whether a store's page could show the messenger with a token: `chats doctor embed`."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import httpx2
import jwt

from deploy.doctor import embed_origin, embed_token
from deploy.doctor.findings import Finding, fault, note, ok, warning
from services.conversations.settings import ApiSettings
from shared.auth.jwks import ALGORITHMS, ProviderKeys, read_header
from shared.problems import TokenRefused, Unavailable
from shared.settings import TokenSettings, read_settings, settings_errors

TIMEOUT: Final = 10.0  # seconds
SCRIPT: Final = "/chats-static/messenger.js"
FRAME: Final = "/messenger/start/"
CALL: Final = "/api/v1/unread"
PAGES: Final = "/dashboard/messages/"


async def check(token: str | None, origin: str | None, url: str | None) -> Sequence[Finding]:
    """Check a token, an origin, or both, by the settings of this environment and by what the deployment answers."""
    if token is None and origin is None:
        return [
            fault("There is nothing to check.", "Give --token - and --origin https://store.example, or one of them.")
        ]
    settings = None if settings_errors(TokenSettings) else read_settings(TokenSettings)
    url = (url or (settings.public_url if settings else "")).rstrip("/")
    findings: list[Finding] = []
    if settings is None:
        text = "There are no settings here: only what the deployment answers is checked."
        findings.append(note(text, None if url else "Run this with the settings of the API, or give --url."))
    if token is not None:
        token = embed_token.find_token(token)
        findings += await _of_token(token, settings)
    if origin is not None:
        origin, written = embed_origin.read_origin(origin)
        findings += written
    if origin is not None:
        findings += [embed_origin.check_listed(origin, settings.store_origins)] if settings else []
        findings += embed_origin.check_browser(origin, url) if url else []
    if url:
        findings += await _of_deployment(url, token, origin)
    return findings


async def _of_token(token: str, settings: TokenSettings | None) -> Sequence[Finding]:
    claims = embed_token.read_claims(token)
    if claims is None:
        advice = (
            "A token has three parts with dots between them. Give it alone, or the JSON that your token-url answers."
        )
        return [fault("This is not a JSON Web Token.", advice)]
    if settings is None:
        return []
    try:
        key = await _find_key(token, settings)
    except TokenRefused as refused:
        return [fault(refused.detail, embed_token.ADVICE[refused.reason])]
    except Unavailable as error:
        return [
            warning(
                f"The signature was not checked: {error.detail}", "Check CHATS_AUTH_JWKS_URL: `chats doctor sign-in`."
            )
        ]
    return list(embed_token.check_token(token, claims, settings, key, _max_age()))


async def _find_key(token: str, settings: TokenSettings) -> jwt.PyJWK | None:
    if settings.auth_jwks_url is None or read_header(token).get("alg") not in ALGORITHMS:
        return None
    keys = ProviderKeys(settings.auth_jwks_url)
    try:
        return await keys.find(token)
    finally:
        await keys.close()


def _max_age() -> timedelta:
    """Return the age up to which the API starts a session with a token."""
    if settings_errors(ApiSettings):
        return timedelta(seconds=ApiSettings.model_fields["session_token_max_age_seconds"].default)
    return timedelta(seconds=read_settings(ApiSettings).session_token_max_age_seconds)


async def _of_deployment(url: str, token: str | None, origin: str | None) -> Sequence[Finding]:
    """Return what browsers would get from the running deployment."""
    findings: list[Finding] = []
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            script = await client.get(SCRIPT)
            findings.append(_of_script(url, script))
            if not script.is_success:
                return findings
            if origin is not None:
                findings += _of_frame(origin, await client.get(FRAME))
            if token is not None and token.isascii() and token.isprintable():
                headers = {"Authorization": f"Bearer {token}"} | ({"Origin": origin} if origin else {})
                findings += _of_call(origin, await client.get(CALL, headers=headers))
            findings.append(_of_login(await client.get(PAGES, headers={"Accept": "text/html"})))
    except httpx2.HTTPError as error:
        text = f"{url} cannot be reached: {str(error).rstrip('.') or type(error).__name__}."
        return [
            *findings,
            warning(text, "Start Customer Chats, or give its address with --url. Its answers were not checked."),
        ]
    return findings


def _of_script(url: str, script: httpx2.Response) -> Finding:
    if script.is_redirect:
        text = f"{url}{SCRIPT} redirects to {script.headers.get('Location')}."
        return fault(text, "Use that address in your pages, in their Content-Security-Policy and as CHATS_PUBLIC_URL.")
    kind = script.headers.get("Content-Type", "")
    if not script.is_success or "javascript" not in kind or script.headers.get("Access-Control-Allow-Origin") != "*":
        text = f"{url}{SCRIPT} answers with status {script.status_code} and {kind or 'no content type'}."
        return fault(text, "Let the proxy forward this path to `chats api`, as deploy/Caddyfile does.")
    return ok(f"{url}{SCRIPT} can be loaded by any page.")


def _of_frame(origin: str, frame: httpx2.Response) -> Iterator[Finding]:
    if not frame.is_success:
        text = f"{FRAME} answers with status {frame.status_code}."
        yield fault(text, "Let the proxy forward /messenger/ to `chats api`, as deploy/Caddyfile does.")
        return
    policy = frame.headers.get("Content-Security-Policy", "")
    [*_, allowed] = ["", *(part.strip() for part in policy.split(";") if part.strip().startswith("frame-ancestors"))]
    if origin not in allowed.split():
        text = f"Browsers refuse to show the panel on {origin}: {FRAME} has “{allowed or 'no frame-ancestors'}”."
        yield fault(
            text, "Restart the API after a change of CHATS_STORE_ORIGINS. The proxy must not replace the policy."
        )
    elif "X-Frame-Options" in frame.headers:
        text = "A proxy adds X-Frame-Options: older browsers refuse to show the panel."
        yield warning(text, "Remove this header in the proxy for /messenger/.")
    else:
        yield ok(f"Browsers may show the panel on {origin}.")


def _of_call(origin: str | None, answer: httpx2.Response) -> Iterator[Finding]:
    """Yield whether the API accepts the token, and lets scripts of the origin read its answer."""
    if answer.status_code == httpx2.codes.UNAUTHORIZED:
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = "it does not say why; a proxy may have removed the Authorization header."
        yield fault(
            f"The API refuses the token: {detail}", "Sign it with the secret and for the audience of this deployment."
        )
    elif answer.status_code == httpx2.codes.FORBIDDEN:
        yield fault(
            "The API accepts the token, but not its role for this.", "Give the messenger tokens of customers only."
        )
    elif answer.is_success:
        yield ok("The API accepts the token.")
    else:
        yield warning(f"{CALL} answers with status {answer.status_code}.", "Run `chats doctor` where the API runs.")
    if origin is not None and answer.headers.get("Access-Control-Allow-Origin") not in {origin, "*"}:
        text = f"Scripts on {origin} cannot read the API's answers: there is no Access-Control-Allow-Origin for it."
        yield fault(
            text, "Restart the API after a change of CHATS_STORE_ORIGINS. The proxy must not remove the header."
        )


def _of_login(answer: httpx2.Response) -> Finding:
    target = answer.headers.get("Location", "")
    if answer.is_redirect and target:
        return ok(f"Without a session, pages redirect to {target.partition('?')[0]} (CHATS_LOGIN_URL).")
    text = "CHATS_LOGIN_URL is not set: links in emails lead visitors without a session to an error."
    return warning(text, "Set it to your page with the sign-in form (docs/embedding.md#sign-in).")
