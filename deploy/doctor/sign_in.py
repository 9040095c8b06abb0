"""Check that the keys can be read with which callers' tokens are verified."""

from collections.abc import Sequence

from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import why_unchecked
from shared.auth.jwks import JwksError, fetch_keys
from shared.settings import TokenSettings, read_settings


async def check() -> Sequence[Finding]:
    """Check the secret and the identity provider's keys."""
    if unchecked := why_unchecked(TokenSettings):
        return [unchecked]
    settings = read_settings(TokenSettings)
    findings = [_of_secret(len(settings.auth_secret))]
    if settings.auth_jwks_url is not None:
        findings.append(await _of_provider(settings.auth_jwks_url))
    if settings.auth_jwks_url is not None and settings.auth_issuer is None:
        findings.append(
            warning(
                "CHATS_AUTH_ISSUER is not set: tokens of every issuer that uses these keys are accepted.",
                "Set it to the `iss` in your identity provider's tokens.",
            )
        )
    return findings


def _of_secret(count: int) -> Finding:
    if not count:
        return note("CHATS_AUTH_SECRET is not set: the API works, but the pages have no sign-in.")
    return ok("Tokens signed with CHATS_AUTH_SECRET are accepted." + " It is being rotated." * (count > 1))


async def _of_provider(url: str) -> Finding:
    shown = url.partition("?")[0]  # a query may hold a key
    try:
        keys = await fetch_keys(url)
    except JwksError as error:
        advice = "Set CHATS_AUTH_JWKS_URL to the `jwks_uri` in your identity provider's configuration document."
        return fault(f"The keys at {shown} cannot be read: {error}.", advice)
    if not keys:
        return fault(f"{shown} has no key that can verify a token.", "Add a public RSA, EC or Ed25519 key there.")
    algorithms = ", ".join(sorted({key.algorithm_name for key in keys}))
    return ok(f"{shown} has {len({key.key_id for key in keys})} keys, for {algorithms}.")
