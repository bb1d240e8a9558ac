"""The web server under ``nmfcore serve``: uvicorn, with limits on time and connections."""

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .common import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..pages.serve.guard import App

__all__ = ["is_loopback", "listen", "own_names", "server"]

HEADER_SECONDS = 10  # in which the headers of a request must have arrived
SHUTDOWN_SECONDS = 1  # that requests have left when the server is stopped
CONNECTIONS = 64


class LimitedProtocol(H11Protocol):
    """A connection that ends when its headers are late, or when others need its place more.

    uvicorn limits neither: half a request holds its connection for ever, and enough of them take all files that the
    process may open.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self._late: asyncio.TimerHandle | None = None
        self._since = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection; where there are too many, end the one that has waited longest for headers."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            waiting = [other for other in self.connections if isinstance(other, LimitedProtocol) and other.idle()]
            oldest = min(
                (other for other in waiting if other is not self), key=lambda other: other._since, default=self
            )
            oldest.end()
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take what was sent; if it is no whole header yet, the rest must arrive in time."""
        super().data_received(data)
        if not self.idle():
            self._cancel()
        elif self._late is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit with the connection."""
        self._cancel()
        super().connection_lost(exc)

    def idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def end(self) -> None:
        """Close the connection without waiting for the other side."""
        self._cancel()
        self.transport.abort()

    def _expect_headers(self) -> None:
        self._since = time.monotonic()
        self._late = self.loop.call_later(HEADER_SECONDS, self.end)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _OneLine(logging.Handler):
    """Print warnings and errors of the server without tracebacks."""

    def __init__(self, say: "Callable[[str], None]"):
        super().__init__(logging.WARNING)
        self.say = say
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError) or record.getMessage().startswith("Cancel "):
            return  # a request that was cut off when the server was stopped
        reason = "" if error is None else f" ({type(error).__name__}: {error})"
        line = f"warning: {record.getMessage().strip()}{reason}"
        if line not in self.said and len(self.said) < 100:  # what strangers send must not fill a log
            self.said.add(line)
            self.say(line)


def server(app: "App", say: "Callable[[str], None]") -> uvicorn.Server:
    """Return a server of an application that is not running yet; `say` prints a line."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_OneLine(say)], False
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=32,  # connections that are taken in one go, before any of them can be ended
        timeout_keep_alive=5,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Open a port, or say what to give instead."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets that name their protocol; with it every answer to a
    # browser waits 40 ms for the acknowledgement of its headers.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, UnicodeError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise Stop(f"port {port} of {host} cannot be opened ({reason}): {_advice(error)}") from error
    return listening


def _advice(error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "give --host an address of this machine: 127.0.0.1 for this machine alone, 0.0.0.0 for all others too"
    if isinstance(error, PermissionError):
        return "ports below 1024 are for the administrator: choose another --port, such as 8765"
    if isinstance(error, OSError) and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return "this machine has no such address: give --host 127.0.0.1, or 0.0.0.0 for all addresses it has"
    return "choose another --port"


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only this machine reaches an open port."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(
        listening.getsockname()[0].partition("%")[0]
    )
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def own_names() -> set[str]:
    """Return the names that this machine has by itself."""
    name = socket.gethostname()
    return {"localhost", name, f"{name}.local", socket.getfqdn()} - {""}
