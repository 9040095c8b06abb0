import pytest

from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.parsing.mime import parse_headers

TRUSTED = TrustedResults("mx.store.test")


@pytest.mark.parametrize(
    ("results", "authentic"),
    [
        (["mx.store.test; dmarc=pass (p=REJECT) header.from=customer.test"], True),
        (["mx.store.test 1; spf=pass; dkim=pass; dmarc=fail"], False),
        (["MX.Store.Test; dkim=pass header.d=customer.test header.s=x"], True),
        (["mx.store.test; dkim=pass header.i=@mail.customer.test"], True),
        (["mx.store.test; dkim=pass header.d=test"], None),
        (["mx.store.test; dkim=pass header.d=other.test"], None),
        (["mx.store.test; dkim=fail header.d=customer.test"], None),
        (["mx.store.test; none"], None),
        (["mx.evil.test; dmarc=pass"], None),
        (["mx.store.test; dmarc=fail", "mx.store.test; dmarc=pass"], False),
        (["(mx.store.test) mx.evil.test; dmarc=pass"], None),
        (["mx.store.test; x=(dmarc=pass)"], None),
        (["mx.store.test; dmarc=pass header.from=other.test"], None),
        (['mx.store.test; spf=pass smtp.mailfrom="a; b"@other.test; dmarc=fail'], False),
        (["mx.store.test; spf=pass (a (b); c); dmarc=fail"], False),
        (["mx.store.test; dkim=pass (2048-bit key) header.d=customer.test header.i=@customer.test;dmarc=none"], True),
        ([";;;", ""], None),
        ([], None),
    ],
)
def test_only_the_newest_result_of_our_own_server_counts(results: list[str], authentic: bool | None) -> None:
    head = "".join(f"Authentication-Results: {result}\r\n" for result in results)
    assert TRUSTED.of(parse_headers(f"{head}\r\n".encode()), "anna@customer.test") is authentic


def test_without_a_trusted_server_nothing_is_known() -> None:
    message = parse_headers(b"Authentication-Results: mx.store.test; dmarc=fail\r\n\r\n")
    assert TrustedResults().of(message, "anna@customer.test") is None
