"""The documentation page of an API, with all of its assets served locally, and the meaning of its fields."""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route


def add_docs(app: FastAPI, docs_url: str) -> None:
    """Serve the documentation of `app.openapi_url` at `docs_url`, and its assets below."""
    html = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{docs_url}/static/swagger-ui-bundle.js",
        swagger_css_url=f"{docs_url}/static/swagger-ui.css",
        swagger_favicon_url=f"{docs_url}/static/favicon.png",
    ).body
    headers = {"Content-Security-Policy": _policy(bytes(html).decode())}

    async def page(_: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    static = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    app.router.routes += [Route(docs_url, page), Mount(f"{docs_url}/static", static)]


def describe_fields(app: FastAPI, meanings: Mapping[str, str]) -> None:
    """Describe the fields in the API document that have no description, by `Title.field` or else by `field`.

    The title of a schema is the name of its class.
    """
    build = app.openapi

    def describe(part: Any) -> None:
        if isinstance(part, dict):
            for field, described in part["properties"].items() if "properties" in part and "title" in part else ():
                if meaning := meanings.get(f"{part['title']}.{field}", meanings.get(field)):
                    described.setdefault("description", meaning)
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            describe(inner)

    def document() -> dict[str, Any]:
        built = build()
        for name, schema in built["components"]["schemas"].items():
            schema["title"] = (
                name  # that of each page of a list is `Page`, and generators of clients name classes after it
            )
        describe(built)
        return built

    app.openapi = document  # type: ignore[method-assign] # as in FastAPI's documentation


def _policy(html: str) -> str:
    """Return a policy that allows the page's inline script, and loading from and calling this origin."""
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
