"""Make pictures anew from files: small ones, upright, without metadata such as the location.

A file may be made to attack the decoder. `picture_worker.py` calls this in a process with limits.
"""

import warnings
from io import BytesIO
from typing import NamedTuple

from PIL import AvifImagePlugin, Image, ImageOps

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF")
MAX_PIXELS = 50_000_000  # of a file; a picture in memory takes up to four bytes for each
THUMBNAIL_SIZE = (512, 512)
PICTURE_SIZE = (2048, 2048)
QUALITY = 80
MAX_PROFILE = 64 * 1024  # bytes of a colour profile that is kept
_TURNED = range(5, 9)  # values of the orientation that swap width and height
_ORIENTATION = 0x0112

AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def load_decoders() -> None:
    """Import all that making pictures needs: Pillow loads its decoders when the first picture is opened."""
    Image.init()


class PictureError(Exception):
    """No picture can be made: the file is damaged, or too large."""


class Pictures(NamedTuple):
    """The dimensions of a file as it is shown, and the pictures made from it, in WebP."""

    width: int
    height: int
    thumbnail: bytes
    picture: bytes


def make_pictures(content: bytes, max_pixels: int = MAX_PIXELS) -> Pictures:
    """Return the pictures of a JPEG, PNG, GIF, WebP or AVIF file; of an animation, its first frame.

    Raises `PictureError`, or `MemoryError`.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels // 2  # Pillow raises at twice the value, before it decodes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                return _make(image, max_pixels)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise more than they document
        raise PictureError(type(error).__name__) from None


def _make(image: Image.Image, max_pixels: int) -> Pictures:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError("too large")
    if image.getexif().get(_ORIENTATION) in _TURNED:
        width, height = height, width
    profile = image.info.get("icc_profile", b"") if image.mode in {"RGB", "RGBA"} else b""
    if image.mode == "P":  # colours of a palette cannot be mixed
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    # First smaller, then upright: a tenth of the time and of the memory. A JPEG is not even decoded in full.
    image.thumbnail(PICTURE_SIZE)
    upright = ImageOps.exif_transpose(image)
    has_alpha = upright.has_transparency_data
    shown = upright.convert("RGBA" if has_alpha else "RGB")
    picture = _encoded(shown, profile)
    shown.thumbnail(THUMBNAIL_SIZE)
    return Pictures(width, height, _encoded(shown, profile), picture)


def _encoded(image: Image.Image, profile: bytes) -> bytes:
    target = BytesIO()
    kept = profile if len(profile) <= MAX_PROFILE else b""
    image.save(target, "WEBP", quality=QUALITY, icc_profile=kept, exif=b"", xmp=b"")
    return target.getvalue()
