"""Why a token is refused, told to those who connect a store: the reason and the setting, and no part of the token."""

from typing import Any, Final

import jwt
from jwt.exceptions import InvalidSubjectError

from shared.keys import ALGORITHMS, read_header
from shared.problems import TokenRefused
from shared.settings import TokenSettings

SECRETS_ALGORITHM: Final = "HS256"


def refusal(error: Exception, token: str, settings: TokenSettings) -> TokenRefused:
    """Tell what PyJWT refuses a token for, in words that name the setting to look at."""
    algorithm = read_header(token).get("alg")
    match error:
        case jwt.InvalidSignatureError():
            expected = "a key of CHATS_AUTH_JWKS_URL" if algorithm in ALGORITHMS else "CHATS_AUTH_SECRET"
            said = TokenRefused(f"The token's signature was not made with {expected}.", "bad_signature")
        case jwt.InvalidAlgorithmError():
            said = _algorithm_refusal(algorithm)
        case jwt.ExpiredSignatureError():
            said = TokenRefused("The token has expired (exp).", "expired")
        case jwt.ImmatureSignatureError():
            said = TokenRefused("The token is not valid yet (iat, nbf): do the clocks differ?", "not_yet_valid")
        case jwt.MissingRequiredClaimError():
            said = TokenRefused(f"The token has no {error.claim}.", "missing_claim", error.claim)
        case jwt.InvalidIssuerError():
            said = TokenRefused(f"The token's iss is not {settings.auth_issuer} (CHATS_AUTH_ISSUER).", "wrong_issuer")
        case jwt.InvalidIssuedAtError():
            said = TokenRefused("The token's iat is no time.", "malformed", "iat")
        case InvalidSubjectError():  # a number, most likely
            said = TokenRefused("The token's sub has to be a string.", "malformed", "sub")
        case _:
            said = TokenRefused("The token cannot be read: it is no JWT, or its exp or nbf is no time.", "malformed")
    return said


def _algorithm_refusal(algorithm: Any) -> TokenRefused:
    if algorithm in ALGORITHMS:
        return TokenRefused("No keys of an identity provider are known: CHATS_AUTH_JWKS_URL is not set.", "unknown_key")
    if algorithm == SECRETS_ALGORITHM:
        return TokenRefused(
            f"The token is signed by {SECRETS_ALGORITHM}, and CHATS_AUTH_SECRET is not set.", "unknown_key"
        )
    return TokenRefused("The token is not signed by an algorithm that counts here.", "bad_signature")
