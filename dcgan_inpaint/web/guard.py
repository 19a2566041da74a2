"""Who may ask: pages of this server alone; and what a browser is told to keep to."""

import re
from contextlib import suppress
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # photos: a browser's cache is on a disk
}
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")


class Guard:
    """Puts HEADERS on every answer of `app`, and refuses a request of another origin.

    A page elsewhere could have its own name lead to this machine (DNS rebinding): so the Host is
    `host`, localhost or a number, which no name can feign.  The Origin, which browsers send along
    with whatever may change something, is that Host.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if refusal := self._refusal(Headers(scope=scope)):
            return await PlainTextResponse(refusal, 403)(scope, receive, guarded)
        with suppress(ClientDisconnect):  # in the midst of an upload: nobody is left to be answered
            await self.app(scope, receive, guarded)

    def _refusal(self, headers: Headers) -> str | None:
        """Why a request is refused, if it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return f"refused: this server is not {host[:80]}: open it by its number"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "refused: a request from another origin"
        return None

    def _is_ours(self, host: str) -> bool:
        found = AUTHORITY.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        if name in ("localhost", self.host.lower()):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
