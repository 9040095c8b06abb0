"""The pages' stylesheet and scripts, and a store's theme."""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from shared.http_headers import matches_etag

STATIC = Path(__file__).parent / "static"
EMBED = Path(__file__).parent / "embed"
PREFIX = "/chats-static"
_EMBEDDED = {"messenger.js", "badge.js"}  # the same script; `badge.js` is its name in older pages
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHORT_LIVED = "public, max-age=300"
# The modules of the elements for a store's pages, each after those that it imports.
_MODULES = ("dom", "events", "chats", "unread", "badge", "texts", "style", "messenger")
_IMPORT, _EXPORT, _COMMENT = (
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^import .*\n",
        r"^export (?=async|const|class|function)",
        r"^ *(?://|/\*\*).*\n| // .*$|^ +(?=\S)|^\n",
    )
)


@dataclass(frozen=True, slots=True)
class Theme:
    """A store's theme: `theme.css`, `header.html`, `footer.html` and a logo, each of them optional.

    The HTML is inserted unescaped, so only trusted people may write to the folder.
    """

    css: str
    header: Markup
    footer: Markup
    logo: str | None

    @classmethod
    def read(cls, directory: Path | None) -> "Theme":
        """Read the theme at startup. Without a folder it is empty."""
        if directory is None:
            return cls("", Markup(), Markup(), None)
        return cls(
            css=_text(directory / "theme.css"),
            header=Markup(_text(directory / "header.html")),  # noqa: S704 - trusted, from the operator
            footer=Markup(_text(directory / "footer.html")),  # noqa: S704 - trusted, from the operator
            logo=next((name for name in ("logo.svg", "logo.png", "logo.webp") if (directory / name).is_file()), None),
        )


def stylesheet(theme: Theme) -> Markup:
    """Return the stylesheet, which every page contains, so that its first paint needs no other request."""
    return Markup((STATIC / "chats.css").read_text() + theme.css)  # noqa: S704 - trusted, ours and the operator's


def source_hash(content: str) -> str:
    """Return the hash of an inline style for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def scripts() -> list[str]:
    """Return the names of the modules that `page.js` imports, so that pages load them in one round trip."""
    others = {"page.js", "operations.js", "messenger-start.js", "held-emails.js"}  # entry points, and one rarely needed
    return sorted(path.name for path in STATIC.glob("*.js") if path.name not in others)


@cache
def version() -> str:
    """Return a hash of all static files."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def embedded_script() -> bytes:
    """Return the elements for a store's pages as one script, so that no cache mixes the modules of two versions."""
    source = "".join((EMBED / f"{name}.js").read_text() for name in _MODULES)
    for dropped in (_IMPORT, _EXPORT, _COMMENT):
        source = dropped.sub("", source)
    return source.encode()


class Assets(StaticFiles):
    """Static files. Below a path with their version they are cached forever, otherwise for five minutes.

    Scripts import each other by relative paths, so a page uses one version of all. Any site may load them: they have no
    private data, and a store's pages load the messenger from here.
    """

    def __init__(self, theme_dir: Path | None) -> None:
        super().__init__(directory=STATIC)
        if theme_dir is not None:
            self.all_directories.append(theme_dir)  # searched after our own
        self._version = version()
        self._embedded = embedded_script()
        self._etag = f'"{hashlib.sha256(self._embedded).hexdigest()[:16]}"'

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve a file with its caching and cross-origin headers."""
        first, _, rest = path.partition("/")
        versioned = first == self._version
        if path in _EMBEDDED and scope["method"] in {"GET", "HEAD"}:
            response = self._embedded_response(Headers(scope=scope))
        else:
            response = await super().get_response(rest if versioned else path, scope)
        response.headers["Cache-Control"] = _IMMUTABLE if versioned else _SHORT_LIVED
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response

    def _embedded_response(self, headers: Headers) -> Response:
        if matches_etag(headers.get("if-none-match"), self._etag):
            return Response(status_code=304, headers={"ETag": self._etag})
        return Response(self._embedded, media_type="text/javascript", headers={"ETag": self._etag})


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
