import pytest

from services.notifications.mail.smtp_url import SmtpServer, parse_smtp_url


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 25, "none")),
        ("smtps://mail.example/", SmtpServer("mail.example", 465, "tls")),
        ("smtp+starttls://mail.example", SmtpServer("mail.example", 587, "starttls")),
        ("SMTP://a%40b:c%2Fd%25@[::1]:2525", SmtpServer("::1", 2525, "none", "a@b", "c/d%")),
    ],
)
def test_an_smtp_url_is_parsed(text: str, server: SmtpServer) -> None:
    assert parse_smtp_url(text) == server


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "http://u:secret@mail.example",
        "secret://mail.example",
        "smtp://u:secret@",
        "smtp://u:secret@mail.example:port",
        "smtp://u:secret@mail.example:0",
        "smtp://u:secret@mail.example:99999",
        "smtp://u:se/cret@mail.example",
        "smtp://u:x#secret@mail.example",
        "smtp://u:x?secret@mail.example",
        "smtp://u:secret@mail.example/path",
        "smtp://u:secret@mail example",
        "smtp://u:secret@[mail.example",
        "smtp://secret@mail.example",
        "smtp://:secret@mail.example",
    ],
)
def test_an_invalid_smtp_url_is_rejected_without_showing_its_password(text: str) -> None:
    with pytest.raises(ValueError, match="the SMTP URL") as caught:
        parse_smtp_url(text)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_does_not_show_its_password() -> None:
    assert "secret" not in repr(parse_smtp_url("smtp://user:secret@mail.example"))
