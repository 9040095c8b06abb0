from email import policy
from email.message import EmailMessage

import pytest

from services.notifications.inbound.parsing.charsets import decode
from services.notifications.inbound.parsing.mime import parse_email, parse_headers

JPEG = b"\xff\xd8\xff\xe0 photo"


def photo(name: str = "photo.jpg") -> bytes:
    return f'Content-Type: image/jpeg; name="{name}"\r\nContent-Disposition: inline\r\n\r\nphoto'.encode()


def text(content: str, kind: str = "plain") -> bytes:
    return f"Content-Type: text/{kind}; charset=utf-8\r\n\r\n{content}".encode()


def multi(kind: str, *parts: bytes) -> bytes:
    boundary = f"b{abs(hash(parts)) % 10**8}".encode()
    body = b"".join(b"\r\n--" + boundary + b"\r\n" + part for part in parts)
    return (
        b"Content-Type: multipart/"
        + kind.encode()
        + b"; boundary="
        + boundary
        + b"\r\n\r\n"
        + body
        + b"\r\n--"
        + boundary
        + b"--\r\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        multi("mixed", text("one"), photo(), text("two")),
        multi("alternative", text("plain"), multi("mixed", text("one", "html"), photo(), text("two", "html"))),
        multi("mixed", multi("alternative", text("plain"), multi("related", text("one two", "html"), photo()))),
        multi("related", multi("alternative", text("plain"), text("one two", "html")), photo()),
        multi("alternative", multi("mixed", text("plain"), photo()), text("one two", "html")),
    ],
)
def test_no_usual_tree_loses_the_photo_or_a_text(source: bytes) -> None:
    email = parse_email(source)
    assert [file.content for file in email.files] == [b"photo"]
    assert " ".join(part.text.strip() for part in email.texts) == "one two"


def test_an_attached_email_is_one_file() -> None:
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("not the customer's")
    inner.add_attachment(b"secret", maintype="application", subtype="pdf", filename="inner.pdf")
    outer = EmailMessage()
    outer.set_content("see attached")
    outer.add_attachment(inner)
    email = parse_email(outer.as_bytes())
    assert [part.text.strip() for part in email.texts] == ["see attached"]
    assert [(file.name, file.content_type) for file in email.files] == [("Inner.eml", "message/rfc822")]


@pytest.mark.parametrize("html", ["  ", "<html><body><p>&nbsp;</p><br>\n</body></html>"])
def test_an_empty_html_part_does_not_hide_the_text(html: str) -> None:
    email = parse_email(multi("alternative", text("said"), text(html, "html")))
    assert [part.text for part in email.texts] == ["said"]


def test_nested_twenty_deep_is_read() -> None:
    source = text("deep")
    for _ in range(20):
        source = multi("mixed", source)
    assert [part.text.strip() for part in parse_email(source).texts] == ["deep"]


@pytest.mark.parametrize("line", ["\n", "--b\n\nx\n"])
def test_an_email_of_too_many_lines_or_parts_is_kept_as_a_file(line: str) -> None:
    head = "Subject: many\nContent-Type: multipart/mixed; boundary=b\n\n"
    source = f"{head}{line * (1_000_001 if line.isspace() else 10_001)}".encode()
    email = parse_email(source)
    assert ([file.content for file in email.files], email.texts, email.incomplete) == ([source], [], True)
    assert email.header("subject") == "many"


def test_headers_are_cut_but_for_the_verdict_of_our_mail_server() -> None:
    headers = parse_headers(f"Subject: {'a' * 9000}\r\nAuthentication-Results: {'b' * 9000}\r\n\r\n".encode())
    assert (len(headers["subject"]), len(headers["authentication-results"])) == (4000, 9000)


@pytest.mark.parametrize("depth", [200, 5000])
def test_an_email_that_is_too_deep_is_kept_and_said(depth: int) -> None:
    head = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(depth))
    email = parse_email(b"Subject: deep\r\n" + head.encode() + text("deep"))
    assert email.incomplete
    assert email.header("subject") == "deep"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('Content-Disposition: attachment; filename="a b.pdf"', "a b.pdf"),
        ('Content-Disposition: attachment; filename="=?utf-8?q?Gr=C3=B6=C3=9Fe.pdf?="', "Größe.pdf"),
        ('Content-Type: application/pdf; name="=?iso-8859-1?q?Gr=F6=DFe?=\r\n =?utf-8?q?.pdf?="', "Größe.pdf"),
        ("Content-Disposition: attachment; filename*=utf-8''Gr%C3%B6%C3%9Fe.pdf", "Größe.pdf"),
        ("Content-Disposition: attachment; filename*0*=utf-8''Gr%C3%B6; filename*1*=%C3%9Fe.pdf", "Größe.pdf"),
        ('Content-Disposition: attachment; filename="Größe.pdf"', "Größe.pdf"),
    ],
)
def test_names_of_files_are_decoded_in_every_form(head: str, name: str) -> None:
    [file] = parse_email(f"{head}\r\n\r\ncontent".encode()).files
    assert file.name == name


@pytest.mark.parametrize(
    "subject", ["Größe", "=?utf-8?q?Gr=C3=B6=C3=9Fe?=", "=?iso-8859-1?Q?Gr=F6=DF?=\r\n =?utf-8?q?e?="]
)
def test_headers_are_decoded(subject: str) -> None:
    assert parse_email(f"Subject: {subject}\r\n\r\n".encode()).header("subject") == "Größe"


def test_500_attachments_are_found() -> None:
    email = parse_email(multi("mixed", text("many"), *(photo(f"{n}.jpg") for n in range(500))))
    assert len(email.files) == 500


@pytest.mark.parametrize(
    ("charset", "data", "expected"),
    [
        ("iso-8859-8-i", "שלום".encode("iso8859-8"), "שלום"),
        ("cp-850", "Größe".encode("cp850"), "Größe"),
        ("windows-1252", "€5".encode("cp1252"), "€5"),
        ("iso-8859-1", b"\x805", "€5"),
        ("us-ascii", "Größe".encode(), "Größe"),
        ("gb2312", "镕".encode("gbk"), "镕"),
        ("zip", b"abc", "abc"),
        ("punycode", b"abc-", "abc-"),
        ("unicode_escape", b"\\u0041", "\\u0041"),
        ("no such", "Größe".encode("cp1252"), "Größe"),
        ("utf-8", b"Gr\xf6\xdfe", "Größe"),
        (None, b"", ""),
        ("\udc80", b"x", "x"),
    ],
)
def test_no_charset_fails(charset: str | None, data: bytes, expected: str) -> None:
    assert decode(data, charset) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/plain; charset*=\xff''x; name*0*=\xff",
        b"Content-Type: ;;;\r\nContent-Disposition: =?x?=",
        b"Content-Transfer-Encoding: uuencode\r\nContent-Type: image/png",
        b"Content-Type: multipart/mixed",
        b"Subject: =?utf-8?q?\x00?=\r\nFrom: <<>>@",
    ],
)
def test_malformed_headers_do_not_fail(head: bytes) -> None:
    email = parse_email(head + b"\r\n\r\nbody")
    assert email.header("subject") is not None


def large(content: bytes, name: str = "large.bin") -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = "Large"
    message.set_content("see below")
    message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message


def test_large_files_are_the_same_as_small_ones() -> None:
    content = bytes(range(256)) * 4000
    message = large(content)
    message.add_attachment(content[::-1], maintype="image", subtype="png", filename="second.png")
    email = parse_email(message.as_bytes())
    assert [(file.name, file.content) for file in email.files] == [
        ("large.bin", content),
        ("second.png", content[::-1]),
    ]
    assert len(email.lifted) == 2


def test_an_attached_email_with_a_large_file_is_whole() -> None:
    outer = EmailMessage(policy=policy.SMTP)
    outer.set_content("see attached")
    outer.add_attachment(large(bytes(500_000)))
    [file] = parse_email(outer.as_bytes()).files
    [inner] = parse_email(file.content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")).files
    assert inner.content == bytes(500_000)


def test_a_large_text_is_read() -> None:
    message = EmailMessage(policy=policy.SMTP)
    message.set_content("word " * 100_000, cte="base64")
    [part] = parse_email(message.as_bytes()).texts
    assert part.text.split() == ["word"] * 100_000


def test_text_of_one_long_word_is_no_file() -> None:
    source = b"Content-Type: text/plain\r\n\r\n" + b"a" * 400_000
    [part] = parse_email(source).texts
    assert part.text == "a" * 400_000
