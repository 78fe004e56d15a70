"""POSTing one callback. Nothing personal is in it; the network is touched only where `intake.callbacks` says so.

Redirects aren't followed, so that nobody is told but who was named. The answer's body isn't read.

A call has one deadline for everything in it: the address's resolution, the handshake and the answer's headers. A socket's own timeout
bounds each read, so that who sends a byte a second would keep a deletion waiting. So the call is made in a thread, which isn't waited for
any longer when time is up; its connection is shut down then, so that the thread ends, too.
"""

import socket
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Lock, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from cdm_core.errors import InvalidInputError

TIMEOUT_SECONDS = 3.0
"""Of a whole call."""

_LOOPBACK = ("127.0.0.1", "localhost")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None  # then urllib raises the redirect as the error it is here


def check_callback_url(url: str) -> str:
    """The address, if it may be told something: https, or http on this machine; no user, no password.

    Raises:
        InvalidInputError: it may not; the message doesn't repeat it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a bad port raises here
    except ValueError as error:
        raise InvalidInputError("callback: not an address") from error
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInputError("callback: not an address")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("callback: names a user")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise InvalidInputError("callback: must be https")
    return url


def post_callback(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bool, int | None]:
    """(whether it was taken, the HTTP status if there was an answer in time)."""
    try:
        check_callback_url(url)
    except InvalidInputError:
        return False, None
    call = _Call(urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers}))
    thread = Thread(target=call.run, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    call.end()
    return call.answer


class _Call:
    """One POST; `answer` is what it came to so far."""

    def __init__(self, request: urllib.request.Request) -> None:
        self.answer: tuple[bool, int | None] = False, None
        self._request = request
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._is_over = False

    def run(self) -> None:
        proxies = urllib.request.ProxyHandler({} if self._request.type == "http" else None)
        opener = urllib.request.build_opener(proxies, _NoRedirect(), _Plain(self), _Secure(self))
        try:
            with opener.open(self._request, timeout=TIMEOUT_SECONDS) as answer:
                self._settle(200 <= answer.status < 300, int(answer.status))
        except HTTPError as error:
            error.close()
            self._settle(False, error.code)
        except (OSError, ValueError, HTTPException):
            pass

    def _settle(self, is_taken: bool, status: int) -> None:
        """Headers that end because the connection was shut down look like whole ones."""
        with self._lock:
            if not self._is_over:
                self.answer = is_taken, status

    def hold(self, connected: socket.socket) -> None:
        """Remember the connection, by a copy that stays when TLS takes the socket over."""
        with self._lock:
            if self._is_over:
                raise TimeoutError
            self._socket = connected.dup()

    def end(self) -> None:
        """Let nothing more come of it."""
        with self._lock:
            self._is_over = True
            if self._socket is not None:
                with self._socket, suppress(OSError):  # the other side has gone
                    self._socket.shutdown(socket.SHUT_RDWR)


class _PlainConnection(HTTPConnection):
    call: _Call

    def connect(self) -> None:
        super().connect()
        self.call.hold(self.sock)


class _SecureConnection(HTTPSConnection, _PlainConnection):
    """In this order the TLS connection is made over one that is held already."""


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, call: _Call) -> None:
        super().__init__()
        self._call = call

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_held(_PlainConnection, self._call), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, call: _Call) -> None:
        super().__init__()
        self._call = call

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_held(_SecureConnection, self._call), req)


def _held(kind: type[_PlainConnection], call: _Call) -> Any:
    """What urllib makes a connection of the kind with."""

    def connect(host: str, **named: Any) -> _PlainConnection:
        connection = kind(host, **named)
        connection.call = call
        return connection

    return connect
