"""What is checked before a request is answered: the name it was sent to, the page that sent it, and its time."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any, TypeAlias

    # What an ASGI application is called with, see https://asgi.readthedocs.io/en/latest/specs/main.html
    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SECONDS = 60
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.ASCII)
_RAW_HEADERS = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]


class Guard:
    """An ASGI application around another.

    A page elsewhere can make a browser send requests to this machine. By a name of its own that it lets point here
    (DNS rebinding) it could even read the answers: so a request must name a host of ours. And what a page of
    another origin posts is refused.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    hosts : collection of str or None
        Names in the Host header that are answered, without ports; None for any.
    addresses : bool
        Answer to numerical addresses, too, whatever they are: no page elsewhere can let one point at this machine.
    seconds : float
        A request that is not answered after that time is given up.
    """

    def __init__(self, app: App, hosts: Collection[str] | None, addresses: bool = False, seconds: float = SECONDS):
        self.app, self.addresses, self.seconds = app, addresses, seconds
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # websockets: there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)

        started = False

        async def careful(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_RAW_HEADERS]}
            await send(message)

        status = 403
        if refusal is None:
            try:
                async with asyncio.timeout(self.seconds):
                    await self.app(scope, receive, careful)
                return
            except TimeoutError:
                if started:
                    raise
                status, refusal = 503, "This took too long."
        body = refusal.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await careful({"type": "http.response.start", "status": status, "headers": headers})
        await careful({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _refusal(self, scope: Scope) -> str | None:
        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        match = _HOST.fullmatch(named[0]) if len(named) == 1 else None
        if match is None or not self._answers_to(match[1]):
            return "This page answers only to the address it was started at."
        if scope["method"] in ("GET", "HEAD"):
            return None
        origins = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
        if any(origin != f"{scope['scheme']}://{named[0]}" for origin in origins):
            return "Only the page itself may send pictures."
        return None

    def _answers_to(self, host: str) -> bool:
        if self.hosts is None or host in self.hosts:
            return True
        if not self.addresses:
            return False
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
