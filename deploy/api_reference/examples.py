"""Examples of calls, events and webhooks as Markdown, for the API reference."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "docs" / "api"
EXAMPLES: Final = FOLDER / "examples.json"
ORIGIN: Final = "https://chats.example"

# As in RFC 9110. Before Python 3.13 `HTTPStatus` has older names.
_PHRASES: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_SHORT: Final = re.compile(r"([{\[])\s+([^{}\[\]]{0,90}?)\s+([}\]])")

Json = Mapping[str, Any]


def example_of(example: Json) -> str:
    """Return a call as a command for a shell, and its response."""
    return f"**{example['title'] or 'Example'}**\n\n{_fenced('sh', _curl(example))}\n{response_of(example['response'])}"


def response_of(response: Json) -> str:
    """Return a response with its status and the headers that matter."""
    status = response["status"]
    phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    head = [f"{status} {phrase}", *(f"{name}: {value}" for name, value in response["headers"].items())]
    body = _pretty(response["json"]) if "json" in response else response.get("text", "").rstrip()
    return _fenced("http", "HTTP/1.1 " + "\n".join(head) + (f"\n\n{body}" if body else ""))


def event_of(name: str, example: Json) -> str:
    """Return a server-sent event; its data, which is one line, as several."""
    position = f"\nid: {example['x-position']}" if "x-position" in example else ""
    return _fenced("", f"event: {name}\ndata: {_pretty(example['data'])}{position}")


def webhook_of(example: Json) -> str:
    """Return the request of a webhook."""
    head = "\n".join(f"{name}: {value}" for name, value in example["headers"].items())
    return _fenced("http", f"POST /hooks/chats HTTP/1.1\n{head}\n\n{_pretty(example['json'])}")


def _curl(example: Json) -> str:
    method, body = example["method"], []
    if "json" in example:
        body = ['-H "Content-Type: application/json"', f"-d {_quoted(_pretty(example['json']))}"]
    elif "form" in example:
        body = [f'-d "{name}={value}"' for name, value in example["form"].items()]
    elif "text" in example:
        body = [f"--data-binary {_quoted(example['text'])}"]
    elif "file" in example:
        body = ["--data-binary @file"]
    verb = "" if method == ("POST" if body else "GET") else f" -X {method}"
    lines = [f'curl{verb} "{ORIGIN}{example["path"]}"']
    lines += [f'-H "Authorization: Bearer ${example["caller"]}"'] if example["caller"] else []
    lines += [f"-H {_quoted(f'{name}: {value}')}" for name, value in example["headers"].items()]
    return " \\\n  ".join([*lines, *body])


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n".replace("\r\n", "\n")


def _pretty(value: Any) -> str:
    """Return JSON with short objects and lists on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    for _ in range(3):  # from the inside outwards
        text = _SHORT.sub(lambda match: match[1] + " ".join(match[2].split()) + match[3], text)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
