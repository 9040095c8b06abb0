"""What pages are dressed with: the stylesheet, scripts, and a store's own theme."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
PREFIX = "/chats-static"
_FOR_EVER = "public, max-age=31536000, immutable"
_FOR_A_WHILE = "public, max-age=300"


@dataclass(frozen=True, slots=True)
class Theme:
    """A store's own look: what its folder holds of `theme.css`, `header.html`, `footer.html` and a logo.

    Whoever can write there can write the pages: the two pieces of HTML are taken as they are.
    """

    css: str
    header: Markup
    footer: Markup
    logo: str | None

    @classmethod
    def read(cls, directory: Path | None) -> "Theme":
        """Read a theme once, at the start; no folder is the look without one."""
        if directory is None:
            return cls("", Markup(), Markup(), None)
        return cls(
            css=_text(directory / "theme.css"),
            header=Markup(_text(directory / "header.html")),  # noqa: S704 - the operator's own
            footer=Markup(_text(directory / "footer.html")),  # noqa: S704 - the operator's own
            logo=next((name for name in ("logo.svg", "logo.png", "logo.webp") if (directory / name).is_file()), None),
        )


def stylesheet(theme: Theme) -> Markup:
    """Return the one stylesheet, as it stands within every page: the first paint then needs nothing but the page."""
    return Markup((STATIC / "chats.css").read_text() + theme.css)  # noqa: S704 - ours, and the operator's


def source_hash(content: str) -> str:
    """Return how a Content-Security-Policy names an inline style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def version() -> str:
    """Return a name for the present content of all static files."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Assets(StaticFiles):
    """Static files, below a path with their version for ever, and below none for a while.

    Scripts import each other by relative paths, so all of a page are of one version. Any site may load them: they
    hold nothing of anybody, and a shop's header takes the badge from here.
    """

    def __init__(self, theme_dir: Path | None) -> None:
        super().__init__(directory=STATIC)
        if theme_dir is not None:
            self.all_directories.append(theme_dir)  # looked through in this order
        self._version = version()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve a file."""
        first, _, rest = path.partition("/")
        versioned = first == self._version
        response = await super().get_response(rest if versioned else path, scope)
        response.headers["Cache-Control"] = _FOR_EVER if versioned else _FOR_A_WHILE
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
