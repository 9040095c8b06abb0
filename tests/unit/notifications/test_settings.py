"""Settings that the worker and the sweeper reject, and log lines that they suppress."""

import logging

import pytest
from celery.worker.consumer import consumer

from services.notifications.celery_runner import quotes_no_message
from services.notifications.mail.message import LOCALE
from services.notifications.settings import EmailSettings, SweeperSettings
from shared.settings import SettingsError, read_settings
from shared.translations import find_language


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMAIL_FROM", "hidden"),
        ("EMAIL_FROM", "Store <hidden>"),
        ("EMAIL_FROM", "hiddén@store.test"),
        ("EMAIL_REPLY_TO", "hidden"),
        ("EMAIL_EHLO", "hidden name"),
        ("EMAIL_EHLO", "hidden\r\nMAIL"),
        ("EMAIL_EHLO", "[hidden]"),
        ("SUPPORT_EMAIL", "Desk <hidden@store.test>"),
        ("SUPPORT_EMAIL", "hidden"),
        ("PUBLIC_URL", "hidden.test"),
        ("PUBLIC_URL", "javascript:hidden"),
        ("PUBLIC_URL", "https://store.test/?hidden"),
        ("PUBLIC_URL", "https://[hidden"),
        ("CONVERSATIONS_URL", "unix:///hidden"),
        ("EMAIL_ONLY_TO", " , "),
        ("EMAIL_RETRY_SECONDS", "60,-1"),
        ("EMAIL_RETRY_SECONDS", "hidden"),
        ("EMAIL_RETRY_SECONDS", ","),
        ("EMAIL_DELAY_SECONDS", "inf"),
        ("EMAIL_DELAY_SECONDS", "nan"),
        ("EMAIL_UNCERTAIN_SECONDS", "99999999999"),
        ("TIME_ZONE", "Hidden/Place"),
        ("LOCALE", "hidden"),
        ("SMTP_URL", "http://hidden"),
    ],
)
def test_an_invalid_email_setting_is_reported_in_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/chats")
    monkeypatch.setenv("CHATS_FEED_SECRET", "the feed's own")
    read_settings(SweeperSettings)
    monkeypatch.setenv(f"CHATS_{name}", value)
    with pytest.raises(SettingsError, match=f"^CHATS_{name}: ") as error:
        read_settings(SweeperSettings)
    assert len(str(error.value).splitlines()) == 1
    assert "hidden" not in str(error.value).lower()


def test_an_invalid_inbound_domain_is_called_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/chats")
    monkeypatch.setenv("CHATS_FEED_SECRET", "the feed's own")
    monkeypatch.setenv("CHATS_INBOUND_SECRET", "the secret of inbound email")
    for domain in ("two words", "hidden@store.test", "@store.test", ".", "store..test", "a,b"):
        monkeypatch.setenv("CHATS_INBOUND_DOMAIN", domain)
        with pytest.raises(SettingsError, match=r"^CHATS_INBOUND_DOMAIN: must be a domain, such as "):
            read_settings(SweeperSettings)


def test_email_settings_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/chats")
    monkeypatch.setenv("CHATS_FEED_SECRET", "the feed's own")
    monkeypatch.setenv("CHATS_EMAIL_FROM", "Bücher & Co <support@bücher.test>")
    monkeypatch.setenv("CHATS_SUPPORT_EMAIL", "desk@store.test")
    monkeypatch.setenv("CHATS_PUBLIC_URL", "https://store.test/help/")
    monkeypatch.setenv("CHATS_EMAIL_ONLY_TO", "*@staff.test, qa+*@mail.test,*")
    monkeypatch.setenv("CHATS_EMAIL_RETRY_SECONDS", "1, 2")
    settings = read_settings(SweeperSettings)
    assert settings.email_only_to == ("*@staff.test", "qa+*@mail.test", "*")
    assert settings.email_retry_seconds == (1, 2)


def test_texts_and_dates_are_in_the_same_language() -> None:
    language = find_language(LOCALE, ["ja-JP", "de-AT"])
    assert str(language.locale) == "de_AT"
    assert language.translations.gettext("View and reply") == "Ansehen und antworten"
    assert str(find_language(LOCALE, ["xx", None, "ja"]).locale) == "en"


@pytest.mark.parametrize("name", ["UNKNOWN_FORMAT", "UNKNOWN_TASK_ERROR", "INVALID_TASK_ERROR", "MESSAGE_DECODE_ERROR"])
def test_log_lines_that_quote_a_message_are_suppressed(name: str) -> None:
    def is_logged(template: str) -> bool:
        return quotes_no_message(logging.LogRecord(consumer.__name__, logging.ERROR, "", 0, template, (), None))

    assert not is_logged(getattr(consumer, name))
    assert is_logged("consumer: Cannot connect to %s: %s.")


@pytest.mark.parametrize(
    ("public_url", "ehlo", "expected"),
    [
        ("https://store.test:8443/help/", None, "store.test"),
        ("https://store.test", "mail.store.test", "mail.store.test"),
        ("https://store.test", "[192.0.2.1]", "[192.0.2.1]"),
        ("http://127.0.0.1:8000", None, "[127.0.0.1]"),
        ("http://[2001:db8::1]:8000", None, "[IPv6:2001:db8::1]"),
        ("https://bücher.test", None, "xn--bcher-kva.test"),
    ],
)
def test_the_ehlo_name_is_the_setting_or_else_the_public_urls_host(
    monkeypatch: pytest.MonkeyPatch, public_url: str, ehlo: str | None, expected: str
) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/chats")
    monkeypatch.setenv("CHATS_PUBLIC_URL", public_url)
    if ehlo:
        monkeypatch.setenv("CHATS_EMAIL_EHLO", ehlo)
    assert read_settings(EmailSettings).ehlo == expected


@pytest.mark.parametrize(
    ("public_url", "smtp_url", "warns"),
    [
        ("https://store.test", "smtp://mailpit:1025", True),
        ("https://store.test", "smtp://user:hidden@catcher.test:1025", True),
        ("https://store.test", "smtp://mail.test", False),
        ("https://store.test", None, False),
        ("http://127.0.0.1:8000", "smtp://mailpit:1025", False),
    ],
)
def test_public_pages_with_a_mail_catcher_are_worth_a_warning(
    public_url: str, smtp_url: str | None, warns: bool
) -> None:
    settings = EmailSettings(
        notifications_database_url="postgresql://chats@127.0.0.1/chats", public_url=public_url, smtp_url=smtp_url
    )
    assert bool(settings.warning) == warns
    assert "hidden" not in (settings.warning or "")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dkim_domain": "store.test"}, "CHATS_DKIM_SELECTOR"),
        (
            {"dkim_domain": "store.test", "dkim_selector": "a", "dkim_key": "no key"},
            "CHATS_DKIM_KEY: this is no private",
        ),
        (
            {"dkim_domain": "store test", "dkim_selector": "a", "dkim_key": "no key"},
            "CHATS_DKIM_DOMAIN: must be a name",
        ),
    ],
)
def test_what_cannot_sign_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], reason: str
) -> None:
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/chats")
    for name, value in given.items():
        monkeypatch.setenv(f"CHATS_{name.upper()}", value)
    with pytest.raises(SettingsError, match=reason):
        read_settings(EmailSettings)
