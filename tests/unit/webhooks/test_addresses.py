"""What a webhook's URL may be, and which addresses a name may lead to."""

import pytest

from services.conversations.webhooks.addresses import check_url, is_reachable

PRIVATE = frozenset({"hooks.internal", "localhost", "127.0.0.1", "10.0.0.7", "::1"})

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
OWN = [  # of the machine or its networks
    "127.0.0.1",
    "127.8.9.10",
    "10.0.0.7",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "::1",
    "fd00::1",
    "100.64.0.1",
    "::ffff:10.0.0.7",
    "::ffff:127.0.0.1",
]
NEVER = [
    "0.0.0.0",  # noqa: S104 - refused
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "fe80::1",
    "fe80::1%lo",
    "ff02::1",
]
TUNNELS = [  # an address of ours, written in one of the network's
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:a00:7::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "::7f00:1",
    "2001:db8::1",
    "3fff::1",
    "198.18.0.1",
    "192.0.2.1",
    "192.0.0.8",
    "192.88.99.1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reachable(address: str) -> None:
    assert is_reachable(address, is_private_host=False)


@pytest.mark.parametrize("address", OWN)
def test_addresses_of_our_own_networks_are_reachable_for_hosts_that_the_operator_named(address: str) -> None:
    assert not is_reachable(address, is_private_host=False)
    assert is_reachable(address, is_private_host=True)


@pytest.mark.parametrize("address", NEVER)
def test_addresses_of_no_single_machine_are_never_reachable(address: str) -> None:
    assert not is_reachable(address, is_private_host=False)
    assert not is_reachable(address, is_private_host=True)


@pytest.mark.parametrize("address", TUNNELS)
def test_translated_tunnelled_and_reserved_addresses_are_not_public(address: str) -> None:
    assert not is_reachable(address, is_private_host=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://store.example/hooks?a=b",
        "https://store.example:8443/",
        "https://xn--mnchen-3ya.example",
        "https://hooks.store.example./",
        "https://under_score.store.example/",
        f"https://{'a' * 63}.example/",
        "https://93.184.216.34/hooks",
        "https://[2606:4700:4700::1111]/",
        "https://hooks.internal/",
        "https://10.0.0.7/",
        "http://localhost:8001/hooks",
        "http://127.0.0.1:8001/hooks",
        "http://[::1]:8001/hooks",
    ],
)
def test_urls_of_the_store_are_accepted_as_they_are(url: str) -> None:
    assert check_url(url, PRIVATE) == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://store.example/hooks", "https"),
        ("http://hooks.internal/", "https"),
        ("http://10.0.0.7/", "https"),
        ("https://ann:secret@store.example/", "no user"),
        ("https://@store.example/", "no user"),
        ("https://store.example/#there", "fragment"),
        ("https://store.example/#", "fragment"),
        ("ftp://store.example/", "https://store.example"),
        ("store.example", "https://store.example"),
        ("https:///hooks", "https://store.example"),
        ("https://store.example:0/", "https://store.example"),
        ("https://store.example:99999/", "https://store.example"),
        ("https://[::1/", "https://store.example"),
        ("https://store.example/a b", "spaces"),
        ("https://store.example/\n", "spaces"),
        ("https://store.example\\@10.0.0.8/", "backslash"),
        ("https://münchen.example/", "xn--"),
        ("https://store.example/" + "a" * 2000, "2000"),
        ("https://localhost/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://database/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://database.internal/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://10.0.0.8/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://169.254.169.254/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://[::ffff:127.0.0.1]/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://[fe80::1]/", "CHATS_WEBHOOK_PRIVATE_HOSTS"),
        ("https://.x/", "host name"),
        ("https://./", "host name"),
        ("https://store..example/", "host name"),
        ("https://store.example../", "host name"),
        ("https://.store.example/", "host name"),
        ("https://-store.example/", "host name"),
        ("https://store-.example/", "host name"),
        ("https://sto*re.example/", "host name"),
        ("https://store%2eexample/", "host name"),
        (f"https://{'a' * 64}.example/", "host name"),
        (f"https://{'a.' * 127}example/", "host name"),
        ("https://[2606:4700:4700::1111%25eth0]/", "zone"),
        ("https://[2606:4700:4700::1111%eth0]/", "zone"),
        ("https://127.1/", "four decimal"),
        ("https://2130706433/", "four decimal"),
        ("https://0x7f.0x1/", "four decimal"),
        ("https://0177.0.0.1/", "four decimal"),
    ],
)
def test_other_urls_are_refused_with_what_to_do(url: str, says: str) -> None:
    names = PRIVATE - {"localhost"} if "localhost" in url else PRIVATE
    with pytest.raises(ValueError, match=says):
        check_url(url, names)
