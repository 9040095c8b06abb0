from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import settings as playing
from hypothesis import strategies as st

from shared.auth.principal import Principal
from shared.auth.tokens import issue_session_token, issue_token, verify_session_token, verify_token
from shared.problems import TokenRefused, Unauthenticated
from shared.settings import Role, TokenSettings

OLD, NEW = "the old secret, of 32 bytes or more", "the new secret, of 32 bytes or more"
HOUR = timedelta(hours=1)
SESSION = UUID("01900000-0000-4000-8000-000000000000")


def settings(*secrets: str, **changes: Any) -> TokenSettings:
    return TokenSettings(auth_secret=secrets or (NEW,), **changes)


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with changes; None removes a claim."""
    now = datetime.now(UTC)
    valid = {"sub": "anna", "role": "customer", "aud": "chats", "iat": now, "exp": now + HOUR}
    return {name: value for name, value in (valid | changes).items() if value is not None}


def signed(key: str = NEW, algorithm: str = "HS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm)


def refused(token: str, **changes: Any) -> str:
    """Return the reason for which a token is rejected."""
    with pytest.raises(TokenRefused) as error:
        verify_token(token, settings(**changes))
    assert error.value.extra == {"reason": error.value.reason}
    assert len(token) < 10 or token not in error.value.detail
    assert NEW not in error.value.detail
    return error.value.reason


def test_a_valid_token_identifies_the_caller() -> None:
    token = issue_token(settings(), {"sub": "a/b", "role": "admin", "name": " Anna ", "locale": "de"}, HOUR)
    assert verify_token(token, settings()) == Principal("a/b", Role.ADMIN, name="Anna", locale="de")


def test_during_rotation_both_secrets_verify_and_the_first_one_signs() -> None:
    rotating = settings(NEW, OLD)
    assert verify_token(signed(OLD), rotating) == verify_token(signed(NEW), rotating)
    assert verify_token(issue_token(rotating, {"sub": "anna", "role": "customer"}, HOUR), settings(NEW)).id == "anna"
    assert refused(signed(OLD)) == "bad_signature"


def test_an_expired_token_is_reported_as_expired_with_either_secret() -> None:
    for secret in (OLD, NEW):
        token = signed(secret, exp=datetime.now(UTC) - timedelta(seconds=60))
        with pytest.raises(Unauthenticated, match="expired"):
            verify_token(token, settings(NEW, OLD))


def test_clocks_may_differ_by_half_a_minute() -> None:
    now = datetime.now(UTC)
    verify_token(signed(exp=now - timedelta(seconds=20)), settings())
    verify_token(signed(iat=now + timedelta(seconds=20)), settings())
    assert refused(signed(exp=now - timedelta(seconds=40))) == "expired"
    assert refused(signed(iat=now + timedelta(seconds=40))) == "not_yet_valid"
    assert refused(signed(nbf=now + timedelta(seconds=40))) == "not_yet_valid"


@pytest.mark.parametrize("name", ["sub", "iat", "exp", "aud", "role"])
def test_a_token_without_a_required_claim_is_rejected(name: str) -> None:
    missing: dict[str, Any] = {name: None}
    assert refused(signed(**missing)) == "missing_claim"
    with pytest.raises(TokenRefused, match=f" {name}"):
        verify_token(signed(**missing), settings())


@pytest.mark.parametrize("name", ["iat", "exp"])
@pytest.mark.parametrize("value", ["soon", "", [], {}, [1], float("inf"), float("nan"), -1e400, "9" * 5000])
def test_an_invalid_time_is_rejected(name: str, value: Any) -> None:
    assert refused(signed(**{name: value})) == "malformed"


@pytest.mark.parametrize("subject", ["", " ", "two words", "é", "\ud800", "a\n", "x" * 256, 7, ["anna"]])
def test_a_subject_that_is_not_a_valid_id_is_rejected(subject: Any) -> None:
    assert refused(signed(sub=subject)) == "malformed"


def test_only_hs256_is_accepted_no_matter_what_the_token_says() -> None:
    assert refused(jwt.encode(claims(), "", algorithm="none")) == "bad_signature"
    for algorithm in ("HS384", "HS512"):
        with pytest.raises(Unauthenticated):
            verify_token(signed(NEW * 2, algorithm), settings(NEW * 2))


@pytest.mark.parametrize("crit", [["exp"], ["https://id.test/ext"], [], "b64", None])
def test_a_token_with_unknown_critical_headers_is_rejected(crit: Any) -> None:
    refused(jwt.encode(claims(), NEW, headers={"crit": crit, "https://id.test/ext": 1}))


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "\0", "x" * 100_000])
def test_a_malformed_token_is_rejected(token: str) -> None:
    assert refused(token) == "malformed"


def test_the_expected_audience_must_be_among_the_tokens_audiences() -> None:
    assert verify_token(signed(aud=["shop", "chats"]), settings()).id == "anna"
    for audience in ("shop", ["shop"], "", [], 7, "chatsx"):
        assert refused(signed(aud=audience)) == "wrong_audience"
    for audience in ("desk", "shop", ["other", "shop"]):
        assert verify_token(signed(aud=audience), settings(auth_audience="desk, shop")).id == "anna"
    assert refused(signed(aud="desk, shop"), auth_audience="desk, shop") == "wrong_audience"


@pytest.mark.parametrize("claim", ["client_id", "azp", "https://id.test/client", "/client/id"])
def test_the_audience_may_be_in_another_claim(claim: str) -> None:
    shape: dict[str, Any] = {"auth_audience": "desk,shop", "auth_audience_claim": claim}
    by_claim = {claim: "shop"} if claim != "/client/id" else {"client": {"id": "shop"}}
    assert verify_token(signed(aud=None, **by_claim), settings(**shape)).id == "anna"
    assert refused(signed(aud="shop"), **shape) == "missing_claim"
    assert refused(signed(aud="shop", **dict.fromkeys(by_claim, "other")), **shape) != "expired"
    ours = issue_session_token(settings(**shape), "anna", Role.CUSTOMER, SESSION, "csrf")
    assert verify_session_token(ours, settings(**shape)).session_id == SESSION


def test_the_issuer_is_checked_when_it_is_set() -> None:
    assert verify_token(signed(iss="anyone"), settings()).id == "anna"
    assert verify_token(signed(iss="https://id.test"), settings(auth_issuer="https://id.test")).id == "anna"
    for issuer in ("", "https://id.test/", "https://evil.test"):
        assert refused(signed(iss=issuer), auth_issuer="https://id.test") == "wrong_issuer"
    assert refused(signed(iss=None), auth_issuer="https://id.test") == "missing_claim"
    token = issue_token(settings(auth_issuer="https://id.test"), {"sub": "anna", "role": "customer"}, HOUR)
    assert verify_token(token, settings(auth_issuer="https://id.test")).id == "anna"


@pytest.mark.parametrize(
    ("claim", "role"),
    [
        ("admin", Role.ADMIN),
        ("support", Role.ADMIN),
        (["offline", "support"], Role.ADMIN),
        (["store"], Role.STORE),
        (["customer", "support"], Role.ADMIN),
        (["support", "customer"], Role.ADMIN),
        (["customer", 7, "admin"], Role.ADMIN),
        (["customer", "shop"], Role.STORE),
        (["owner", "customer"], Role.CUSTOMER),
        ("owner", None),
        ("Admin", None),
        ("", None),
        ([], None),
        (["owner", 7, None], None),
        ({"admin": True}, None),
        (True, None),
    ],
)
def test_the_role_is_read_from_the_claims_path_and_mapped(claim: Any, role: Role | None) -> None:
    shape: dict[str, Any] = {"auth_role_claim": "realm.access.roles", "auth_role_map": "support=admin, shop=store"}
    token = signed(role=None, realm={"access": {"roles": claim}})
    if role:
        assert verify_token(token, settings(**shape)).role is role
    else:
        assert refused(token, **shape) == "unknown_role"
        assert verify_token(token, settings(**shape, auth_default_role="customer")).role is Role.CUSTOMER


@pytest.mark.parametrize(
    ("path", "claims_with_role"),
    [
        ("https://shop.example/role", {"https://shop.example/role": "admin"}),
        ("https://shop.example/claims.role", {"https://shop.example/claims": {"role": "admin"}}),
        ("resource_access.desk.shop.example.roles", {"resource_access": {"desk.shop.example": {"roles": ["admin"]}}}),
        ("resource_access.desk.roles", {"resource_access.desk": None, "resource_access": {"desk": {"roles": "admin"}}}),
        ("a.b.c", {"a.b": {"x": "customer"}, "a": {"b.c": "admin"}}),
        ("cognito:groups", {"cognito:groups": ["admin"]}),
        ("/https:~1~1shop.example~1claims/role", {"https://shop.example/claims": {"role": "admin"}}),
        ("/resource_access/desk.shop/roles", {"resource_access": {"desk.shop": {"roles": ["x", "admin"]}}}),
        ("/memberships/1/role", {"memberships": [{"role": "customer"}, {"role": "admin"}]}),
        ("/a~01", {"a~1": "admin"}),
        ("/a.b", {"a.b": "admin"}),
    ],
)
def test_the_role_may_be_at_any_path_no_matter_what_names_on_it_contain(
    path: str, claims_with_role: dict[str, Any]
) -> None:
    shape: dict[str, Any] = {"auth_role_claim": path}
    assert verify_token(signed(role=None, **claims_with_role), settings(**shape)).role is Role.ADMIN
    ours = issue_session_token(settings(**shape), "anna", Role.ADMIN, SESSION, "csrf")
    assert verify_session_token(ours, settings(**shape)).principal.role is Role.ADMIN
    assert refused(signed(role="admin"), **shape) == "missing_claim"


@pytest.mark.parametrize(
    "path", ["/memberships/2", "/memberships/-1", "/memberships/²", "/memberships/x/y", "/x", "//"]
)
def test_a_pointer_to_nothing_gives_no_role(path: str) -> None:
    assert refused(signed(role=None, memberships=["admin", "admin"]), auth_role_claim=path) == "missing_claim"


@pytest.mark.parametrize("realm", [None, "admin", ["admin"], 7, {"access": "admin"}, {"access": ["roles"]}])
def test_a_path_to_nothing_gives_no_role(realm: Any) -> None:
    token = signed(role=None, realm=realm)
    assert refused(token, auth_role_claim="realm.access.roles") == "missing_claim"


def test_a_session_token_is_accepted_only_as_a_cookie_and_no_other_token_is() -> None:
    token = issue_session_token(settings(), "anna", Role.ADMIN, SESSION, "csrf")
    session = verify_session_token(token, settings())
    assert session.principal == Principal("anna", Role.ADMIN, session_id=SESSION)
    assert (session.session_id, session.csrf) == (SESSION, "csrf")
    assert refused(token) == "malformed"
    for other in (signed(), signed(sid=str(SESSION)), signed(csrf="x"), signed(sid="x", csrf="x"), "x"):
        with pytest.raises(Unauthenticated):
            verify_session_token(other, settings())


def test_an_identity_providers_own_sid_is_no_session() -> None:
    assert verify_token(signed(sid="08a1"), settings()).id == "anna"


def test_a_sessions_role_is_the_products_own_regardless_of_the_stores_role_names() -> None:
    shape: dict[str, Any] = {"auth_role_claim": "realm.role", "auth_role_map": "admin=store,customer=admin"}
    for role in (Role.CUSTOMER, Role.ADMIN):
        token = issue_session_token(settings(**shape), "anna", role, SESSION, "csrf")
        assert verify_session_token(token, settings(**shape)).principal.role is role
    with pytest.raises(Unauthenticated):
        verify_session_token(issue_session_token(settings(), "anna", Role.STORE, SESSION, "csrf"), settings())


@pytest.mark.parametrize("role", [None, "owner", [], ["admin"], {}, 7])
def test_a_session_token_with_another_role_is_rejected(role: Any) -> None:
    with pytest.raises(Unauthenticated):
        verify_session_token(signed(sid=str(SESSION), csrf="x", role=role), settings())


def test_an_expired_session_token_still_identifies_its_session() -> None:
    then = datetime.now(UTC) - timedelta(days=3)
    old = signed(sid=str(SESSION), csrf="x", iat=then, exp=then)
    with pytest.raises(Unauthenticated, match="expired"):
        verify_session_token(old, settings())
    assert verify_session_token(old, settings(), may_be_expired=True).session_id == SESSION
    forged = signed(OLD, sid=str(SESSION), csrf="x")
    with pytest.raises(Unauthenticated):
        verify_session_token(forged, settings(), may_be_expired=True)


def test_a_token_may_be_too_old_for_its_purpose() -> None:
    for minutes, fresh in ((4, True), (6, False)):
        token = signed(iat=datetime.now(UTC) - timedelta(minutes=minutes))
        if fresh:
            assert verify_token(token, settings(), max_age=timedelta(minutes=5)).id == "anna"
        else:
            with pytest.raises(Unauthenticated, match="too old"):
                verify_token(token, settings(), max_age=timedelta(minutes=5))


@pytest.mark.parametrize("verified", [False, "false", "False", 0, "0", "no", ""])
def test_an_unverified_address_is_not_used(verified: Any) -> None:
    address = {"email": "anna@customer.test"}
    assert verify_token(signed(**address, email_verified=verified), settings()).email is None
    for verified_claim in (True, "true", None):
        assert verify_token(signed(**address, email_verified=verified_claim), settings()).email == "anna@customer.test"


@pytest.mark.parametrize(
    ("name_claims", "name"),
    [
        ({"name": "Anna", "given_name": "A", "preferred_username": "a"}, "Anna"),
        ({"given_name": "Anna", "family_name": "Adler", "preferred_username": "a"}, "Anna Adler"),
        ({"name": " ", "given_name": "Anna"}, "Anna"),
        ({"name": 7, "family_name": "Adler"}, "Adler"),
        ({"name": "\x00", "preferred_username": "anna"}, "anna"),
        ({"name": "Anna\nAdler"}, "Anna Adler"),
        ({"preferred_username": "anna@customer.test"}, "anna@customer.test"),
        ({"preferred_username": "sam@store.test", "role": "admin"}, None),
        ({"name": "sam@store.test", "given_name": "Sam", "role": "admin"}, "Sam"),
        ({"name": "Sam <sam@store.test>", "preferred_username": "sam", "role": "admin"}, "sam"),
        ({"given_name": "sam@store.test", "role": "admin"}, None),
        ({"name": "Sam @ Store", "role": "admin"}, "Sam @ Store"),
        ({"preferred_username": "sam", "role": "admin"}, "sam"),
        ({"name": "x" * 250}, "x" * 200),
        ({"name": "x" * 199 + "e\u0301"}, "x" * 199),
        ({"name": "x" * 200}, "x" * 200),
        ({"nickname": "anna"}, None),
    ],
)
def test_the_name_is_built_from_the_available_claims(name_claims: dict[str, Any], name: str | None) -> None:
    assert verify_token(signed(**name_claims), settings()).name == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("jti", [7, None, ["a"]])
def test_a_tokens_own_id_is_not_looked_at(jti: Any) -> None:
    assert verify_token(jwt.encode(claims() | {"jti": jti}, NEW), settings()).id == "anna"


@playing(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["email", "email_verified", "name", "given_name", "locale", "zoneinfo", "nbf", "jti"], JSON
        ),
    )
)
def test_with_any_other_claims_a_token_is_accepted_or_rejected(more: dict[str, Any]) -> None:
    try:
        principal = verify_token(jwt.encode(claims() | more, NEW), settings())
    except Unauthenticated:
        return
    except (TypeError, ValueError):
        pytest.fail("an invalid claim must be ignored")
    assert principal.id == "anna"
