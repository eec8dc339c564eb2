"""The read-only web page on the metrics port: one file without outside parts, fed by /status.json and /rounds.json."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from importlib import resources

from covenantd.board import StatusBoard
from covenantd.http import Response, Route
from covenantd.status import SCHEMA

_MAX_ROUNDS = 200
_JSON = "application/json"


def page_routes(board: StatusBoard) -> dict[str, Route]:
    html = (resources.files("covenantd") / "assets" / "status.html").read_bytes()
    headers = {
        "Content-Security-Policy": content_security_policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    async def page() -> Response:
        return Response(200, html, "text/html; charset=utf-8", headers)

    async def status() -> Response:
        return _json(board.status.as_dict())

    async def rounds() -> Response:
        shown = [replace(one, contributions=()).as_dict() for one in board.rounds[-_MAX_ROUNDS:]]
        return _json({"schema": SCHEMA, "rounds": shown})

    return {"/": page, "/status.json": status, "/rounds.json": rounds}


def content_security_policy(html: bytes) -> str:
    """Only the page's own script and style run, by their hashes, and only its own server is asked."""
    scripts, styles = (" ".join(_hashes(html, tag)) for tag in (b"script", b"style"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: bytes, tag: bytes) -> list[str]:
    bodies = re.findall(rb"<" + tag + rb">(.*?)</" + tag + rb">", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies]


def _json(data: object) -> Response:
    return Response(
        200, json.dumps(data, allow_nan=False).encode() + b"\n", _JSON, {"Cross-Origin-Resource-Policy": "same-origin"}
    )
