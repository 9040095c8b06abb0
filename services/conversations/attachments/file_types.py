"""What a file is, by its first bytes: its type, and the dimensions of a picture. The name does not matter."""

import ctypes
import importlib.util
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import imagesize

HEAD_BYTES = 256 * 1024  # the start of a file that is examined
PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"})
"""The types that are shown, as pictures made anew. All other files are only downloaded."""
UNKNOWN = "application/octet-stream"

_MIME_TYPE = 0x10  # MAGIC_MIME_TYPE
_NO_ARCHIVES = 0x1000  # MAGIC_NO_CHECK_COMPRESS: does not unpack
_lock = Lock()  # a cookie of libmagic is for one thread at a time


class FileType(NamedTuple):
    """A file's media type, and the dimensions of a picture if its head tells them."""

    content_type: str
    width: int | None = None
    height: int | None = None


def detect(head: bytes) -> FileType:
    """Return the type of a file that begins with `head`. Takes a few milliseconds: call it in a thread."""
    content_type = _media_type(head)
    if content_type not in PICTURES:
        return FileType(content_type)
    try:
        width, height = imagesize.get(BytesIO(head))
    except Exception:  # noqa: BLE001 - a damaged head may raise anything
        return FileType(content_type)
    return FileType(content_type, width, height) if width > 0 and height > 0 else FileType(content_type)


def _media_type(head: bytes) -> str:
    library, cookie = _libmagic()
    with _lock:
        found = library.magic_buffer(cookie, head, len(head))
    if found is None:
        return UNKNOWN
    media_type = found.decode("ascii", "replace")
    # `inode/…` and `application/x-empty` are not types of content.
    return media_type if "/" in media_type and not media_type.startswith("inode/") else UNKNOWN


@cache
def _libmagic() -> tuple[ctypes.CDLL, int]:
    """Load the library and its database, which the package `pylibmagic` contains."""
    spec = importlib.util.find_spec("pylibmagic")
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - a dependency
    folder = Path(spec.origin).parent
    [path, *_] = sorted(path for pattern in ("libmagic*.so*", "libmagic*.dylib") for path in folder.glob(pattern))
    library = ctypes.CDLL(str(path))
    library.magic_open.restype = ctypes.c_void_p
    library.magic_open.argtypes = [ctypes.c_int]
    library.magic_load.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.magic_buffer.restype = ctypes.c_char_p
    library.magic_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    cookie = library.magic_open(_MIME_TYPE | _NO_ARCHIVES)
    if cookie is None or library.magic_load(cookie, str(folder / "magic.mgc").encode()) != 0:
        raise RuntimeError("the database of libmagic cannot be loaded")
    return library, cookie
