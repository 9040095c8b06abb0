"""Reasons why a token is rejected, for developers: the reason and the setting to check, never a part of the token."""

from typing import Any, Final

import jwt
from jwt.exceptions import InvalidSubjectError

from shared.auth.jwks import ALGORITHMS, read_header
from shared.problems import TokenRefused
from shared.settings import TokenSettings

SECRETS_ALGORITHM: Final = "HS256"


def token_error(error: Exception, token: str, settings: TokenSettings) -> TokenRefused:
    """Convert an error of PyJWT to `TokenRefused`, with a message that names the setting to check."""
    algorithm = read_header(token).get("alg")
    match error:
        case jwt.InvalidSignatureError():
            expected = "a key of CHATS_AUTH_JWKS_URL" if algorithm in ALGORITHMS else "CHATS_AUTH_SECRET"
            refused = TokenRefused(f"The token's signature was not made with {expected}.", "bad_signature")
        case jwt.InvalidAlgorithmError():
            refused = _algorithm_error(algorithm)
        case jwt.ExpiredSignatureError():
            refused = TokenRefused("The token has expired (exp).", "expired")
        case jwt.ImmatureSignatureError():
            refused = TokenRefused(
                "The token is not valid yet (iat, nbf). Check that the clocks agree.", "not_yet_valid"
            )
        case jwt.MissingRequiredClaimError():
            refused = TokenRefused(f"The token has no {error.claim}.", "missing_claim", error.claim)
        case jwt.InvalidIssuerError():
            refused = TokenRefused(
                f"The token's iss is not {settings.auth_issuer} (CHATS_AUTH_ISSUER).", "wrong_issuer"
            )
        case jwt.InvalidIssuedAtError():
            refused = TokenRefused("The token's iat is not a valid time.", "malformed", "iat")
        case InvalidSubjectError():  # a number, most likely
            refused = TokenRefused("The token's sub must be a string.", "malformed", "sub")
        case _:
            refused = TokenRefused("The token is not a valid JWT, or its exp or nbf is not a valid time.", "malformed")
    return refused


def _algorithm_error(algorithm: Any) -> TokenRefused:
    if not isinstance(algorithm, str):
        return TokenRefused("The token is not a valid JWT.", "malformed")
    if algorithm in ALGORITHMS:
        return TokenRefused(
            "The token is signed with an identity provider's key, but CHATS_AUTH_JWKS_URL is not set.", "unknown_key"
        )
    if algorithm == SECRETS_ALGORITHM:
        return TokenRefused(
            f"The token is signed with {SECRETS_ALGORITHM}, but CHATS_AUTH_SECRET is not set.", "unknown_key"
        )
    return TokenRefused("The token's signature algorithm is not supported.", "bad_signature")
