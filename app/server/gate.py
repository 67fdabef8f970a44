"""The ASGI layer around Streamlit: security headers, a limit on sessions, and what is for this computer alone."""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server import limits, monitoring

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
COPY_LINK = """
if (!window.copiesLink) {
  window.copiesLink = true;
  document.addEventListener("click", event => {
    if (!event.target.closest(".st-key-copy_link button")) return;
    const link = new URL(location.href);
    link.searchParams.delete("tab");
    const text = String(link), show = () => prompt("", text);
    if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(show);
    const field = document.body.appendChild(document.createElement("textarea"));
    field.value = text;
    field.select();
    if (!document.execCommand("copy")) show();
    field.remove();
  });
}
"""
"""The page's one script of ours: puts its address, without the tab's number, on the clipboard.  Browsers offer
`navigator.clipboard` over https and on this computer, not to a class; where nothing works, the address is shown."""


def _inline_scripts() -> str:
    """The hashes of our script and of those in Streamlit's own index page, which the policy has to name."""
    page = Path(streamlit.__file__).with_name("static").joinpath("index.html").read_text(encoding="utf-8")
    scripts = [COPY_LINK, *_INLINE.findall(page)]
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)


POLICY = (
    f"default-src 'self'; script-src 'self' 'wasm-unsafe-eval' {_inline_scripts()}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a link holds the prompt
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE = "engram"
"""Name of the cookie with the browser's secret."""
LOCAL = ("127.0.0.1", "::1")
INSIDE = ("/metrics", "/_stcore/metrics")
"""Paths that only this computer may read."""
FULL = "<!doctype html><title>Engram</title><p>All places are taken. Please try again in a few minutes.</p>"


class Gate:
    """Wraps an ASGI app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._connected: Counter[str] = Counter()
        """Address -> its open websockets."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await self._session(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, _with_headers(send))
        else:
            await self._app(scope, receive, send)

    def _full(self, address: str) -> bool:
        return (
            self._connected.total() >= limits.most_sessions() or self._connected[address] >= limits.most_sessions_each()
        )

    async def _session(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = _address(scope)
        if self._full(address):
            monitoring.REFUSED.inc()
            await send({"type": "websocket.close", "code": 1013})
            return
        self._connected[address] += 1
        monitoring.SESSIONS.set(self._connected.total())
        try:
            await self._app(scope, receive, send)
        finally:
            self._connected[address] -= 1
            self._connected += Counter()  # drops those at 0
            monitoring.SESSIONS.set(self._connected.total())

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(INSIDE) and not _from_here(scope):
            await PlainTextResponse("only for this computer", 403)(scope, receive, send)
        elif scope["path"] == "/" and self._full(_address(scope)):
            await PlainTextResponse(FULL, 503, {"Retry-After": "120"}, "text/html")(scope, receive, send)
        else:
            await self._app(scope, receive, _with_cookie(scope, send) if scope["path"] == "/" else send)


def _with_cookie(scope: Scope, send: Send) -> Send:
    """Give a browser that has none a secret, by which it finds its sessions again (`app/session/keep.py`)."""
    if COOKIE in Request(scope).cookies:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            secret = secrets.token_urlsafe(24)
            MutableHeaders(scope=message).append("Set-Cookie", f"{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Lax")
        await send(message)

    return sending


def _address(scope: MutableMapping[str, Any]) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _from_here(scope: Scope) -> bool:
    """Whether this computer asks, and not a proxy on it for somebody else."""
    forwarded = any(name in Request(scope).headers for name in ("forwarded", "x-forwarded-for"))
    return _address(scope) in LOCAL and not forwarded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
