"""Files that are awkward to keep and to show, made here. None attacks a library: they show our own limits only."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

GPS = 0x8825
ORIENTATION = 0x0112
MARKER = "m4rker"


@dataclass(frozen=True)
class AwkwardFile:
    """A file, what it is by its bytes, and the dimensions of its thumbnail's original, None if it gets none."""

    name: str
    content: bytes
    content_type: str
    shown: tuple[int, int] | None = None


def picture(kind: str, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture of a format, with a gradient."""
    image = Image.linear_gradient("L").resize(size).convert(mode)
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def exif(orientation: int = 1) -> bytes:
    """Return metadata with a place, a camera and an orientation."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    data[0x010F] = f"Camera {MARKER}"
    data.get_ifd(GPS).update({1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 0.0)})
    return data.tobytes()


def animation(kind: str) -> bytes:
    """Return an animation of three frames."""
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue")]
    target = BytesIO()
    frames[0].save(target, kind, save_all=True, append_images=frames[1:], duration=100)
    return target.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says it is this large, and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def archive(*names: str) -> bytes:
    """Return a ZIP archive with empty files of these names."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as packed:
        for name in names:
            packed.writestr(name, "")
    return target.getvalue()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!DOCTYPE html><html><body><script>alert(1)</script></body></html>"
JPEG, PNG, GIF, WEBP, AVIF = ((kind, f"image/{kind.lower()}") for kind in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"))
KINDS = (JPEG, PNG, GIF, WEBP, AVIF)
NAMED = (  # names that are awkward by themselves
    "../../etc/passwd",
    "..\\boot.ini",
    "/",
    "",
    " ",
    ".",
    "..",
    "CON",
    "nul.txt",
    "LPT1.pdf",
    "a\x00b.txt",
    "a\r\nSet-Cookie: x=y",
    "bell\x07.txt",
    "photo\u202egpj.exe",
    "\u200b",
    "\u0641\u0627\u062a\u0648\u0631\u0629" * 50 + ".pdf",
    "a" * 300,
    'quote".txt',
    "semi;colon.txt",
    "per%20cent.txt",
    "<b>bold</b>.txt",
    "👩‍💻.txt",
    "e\u0301.txt",
)


def plain() -> Iterator[AwkwardFile]:
    """Yield files that are no pictures, or only pretend to be."""
    yield AwkwardFile("drawing.svg", SVG, "image/svg+xml")
    yield AwkwardFile("drawing.png", SVG, "image/svg+xml")
    yield AwkwardFile("page.html", HTML, "text/html")
    yield AwkwardFile("photo.jpg", HTML, "text/html")
    yield AwkwardFile("photo.png", b"MZ" + b"\0" * 200, "application/x-dosexec")
    yield AwkwardFile("invoice.pdf", b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n", "application/pdf")
    yield AwkwardFile("pack.zip", archive("a.txt"), "application/zip")
    yield AwkwardFile("pack.zip", archive("../../etc/passwd"), "application/zip")
    yield AwkwardFile("notes.txt", "Grüße aus Wien".encode(), "text/plain")
    yield AwkwardFile("notes.txt", "Grüße aus Wien".encode("latin-1"), "text/plain")
    yield AwkwardFile("data.json", b'{"a": 1}', "application/json")
    yield AwkwardFile("one.bin", b"\0", "application/octet-stream")
    yield AwkwardFile("zeros.bin", b"\0" * 300_000, "application/octet-stream")
    yield AwkwardFile("script.js", b"<script>alert(1)</script>", "text/html")
    yield AwkwardFile("picture.bmp", picture("BMP"), "image/bmp")
    yield AwkwardFile("scan.tiff", picture("TIFF"), "image/tiff")
    yield AwkwardFile("icon.ico", picture("ICO"), "image/vnd.microsoft.icon")
    yield from (AwkwardFile(name, b"A text", "text/plain") for name in NAMED)


def pictures() -> Iterator[AwkwardFile]:
    """Yield pictures: shown ones, damaged ones, and some of modes that decoders treat differently."""
    for kind, content_type in KINDS:
        whole = picture(kind)
        yield AwkwardFile(f"whole.{kind}", whole, content_type, (60, 40))
        yield AwkwardFile("named.exe", whole, content_type, (60, 40))
        yield AwkwardFile("followed.png", whole + HTML, content_type, (60, 40))
        large = picture(kind, (700, 500))
        yield AwkwardFile(f"half.{kind}", large[: len(large) // 2], content_type)
    for kind, content_type in (GIF, WEBP, AVIF):
        yield AwkwardFile(f"moving.{kind}", animation(kind), content_type, (60, 40))
    for orientation, shown in ((1, (60, 40)), (6, (40, 60)), (9, (60, 40))):
        yield AwkwardFile("turned.jpg", picture("JPEG", exif=exif(orientation)), "image/jpeg", shown)
    yield AwkwardFile("palette.png", picture("PNG", mode="P"), "image/png", (60, 40))
    yield AwkwardFile("clear.png", picture("PNG", mode="RGBA"), "image/png", (60, 40))
    yield AwkwardFile("grey.png", picture("PNG", mode="LA"), "image/png", (60, 40))
    yield AwkwardFile("deep.png", picture("PNG", mode="I;16"), "image/png", (60, 40))
    yield AwkwardFile("bits.png", picture("PNG", mode="1"), "image/png", (60, 40))
    yield AwkwardFile("print.jpg", picture("JPEG", mode="CMYK"), "image/jpeg", (60, 40))
    yield AwkwardFile("thin.png", picture("PNG", (3000, 1)), "image/png", (3000, 1))
    yield AwkwardFile("dot.gif", picture("GIF", (1, 1)), "image/gif", (1, 1))
    yield AwkwardFile("says-huge.png", png_header(50_000, 50_000), "image/png")
    yield AwkwardFile("says-nothing.png", png_header(0, 0), "image/png")
    yield AwkwardFile("head.png", b"\x89PNG\r\n\x1a\n", "application/octet-stream")
    yield AwkwardFile("profile.jpg", picture("JPEG", icc_profile=b"x" * 70_000), "image/jpeg", (60, 40))


def location_of(content: bytes) -> dict[int, Any]:
    """Return the place in a picture's metadata."""
    with Image.open(BytesIO(content)) as image:
        return dict(image.getexif().get_ifd(GPS))


ALL = [*plain(), *pictures()]
