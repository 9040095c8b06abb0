"""Pictures are made anew: small, upright, without metadata; files that cannot be shown get none."""

from io import BytesIO

import pytest
from PIL import Image

from services.conversations.attachments.file_types import detect
from services.conversations.attachments.pictures import PictureError, make_pictures
from tests.helpers.awkward_files import ALL, KINDS, MARKER, AwkwardFile, exif, location_of, picture


@pytest.mark.parametrize("file", ALL, ids=lambda file: ascii(file.name[:30]))
def test_the_bytes_of_an_awkward_file_decide_what_it_is_and_whether_it_is_shown(file: AwkwardFile) -> None:
    detected = detect(file.content[: 256 * 1024])
    assert detected.content_type == file.content_type
    if file.shown is None:
        with pytest.raises(PictureError):
            make_pictures(file.content)
        return
    assert detected[1:] == file.shown
    made = make_pictures(file.content)
    assert (made.width, made.height) == file.shown
    for content, longest in ((made.thumbnail, 512), (made.picture, 2048)):
        with Image.open(BytesIO(content)) as image:
            assert image.format == "WEBP"
            assert max(image.size) == min(max(file.shown), longest)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS if kind != "GIF"])
def test_what_is_shown_has_no_location_and_no_metadata(kind: str) -> None:
    content = picture(kind, exif=exif())
    assert location_of(content)
    assert MARKER.encode() in content
    made = make_pictures(content)
    for shown in (made.thumbnail, made.picture):
        assert not location_of(shown)
        assert MARKER.encode() not in shown


def test_a_comment_and_a_text_are_not_shown() -> None:
    made = make_pictures(picture("JPEG", comment=MARKER.encode()))
    assert MARKER.encode() not in made.picture + made.thumbnail


def test_a_turned_picture_is_shown_upright() -> None:
    upright = Image.new("RGB", (60, 40), "blue")
    upright.paste("red", (0, 0, 10, 40))  # a red edge at the left
    target = BytesIO()
    upright.save(target, "JPEG", exif=exif(6))  # to be turned clockwise: the edge is on top
    with Image.open(BytesIO(make_pictures(target.getvalue()).picture)) as shown:
        assert shown.size == (40, 60)
        top, bottom = (shown.convert("RGB").getpixel((20, y)) for y in (2, 57))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200
    assert bottom[2] > 200


def test_a_picture_beyond_the_limit_of_pixels_is_not_decoded() -> None:
    content = picture("PNG", (60, 40))
    assert make_pictures(content, max_pixels=2400).width == 60
    with pytest.raises(PictureError):
        make_pictures(content, max_pixels=2399)
