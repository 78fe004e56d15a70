"""Callbacks against a real server on this machine: what is taken, what fails, and whom nothing is sent to."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from callback_server import CallbackServer

from cdm_core.errors import InvalidInputError
from tasks.requests import callbacks
from tasks.requests.callbacks import check_callback_url, post_callback


@pytest.fixture
def server() -> Iterator[CallbackServer]:
    with CallbackServer() as running:
        yield running


def test_a_callback_arrives_as_it_was_sent(server: CallbackServer) -> None:
    assert post_callback(server.url("/status?case=1"), b'{"a":1}', {"X-OpenDSR-Signature": "c2ln"}) == (True, 202)
    (received,) = server.received
    assert (received.path, received.body) == ("/status?case=1", b'{"a":1}')
    assert received.headers["content-type"] == "application/json"
    assert received.headers["x-opendsr-signature"] == "c2ln"


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_refusal_is_a_failure(server: CallbackServer, status: int) -> None:
    server.status = status
    assert post_callback(server.url("/"), b"{}", {}) == (False, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: CallbackServer, status: int) -> None:
    server.status, server.location = status, server.url("/elsewhere")
    assert post_callback(server.url("/"), b"{}", {}) == (False, status)
    assert [received.path for received in server.received] == ["/"]


def test_who_does_not_answer_is_not_waited_for(server: CallbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "TIMEOUT_SECONDS", 0.1)
    server.delay_seconds = 1.0
    assert post_callback(server.url("/"), b"{}", {}) == (False, None)


@contextmanager
def trickling(*, start: bytes) -> Iterator[int]:
    """The port of a server that answers byte by byte, for longer than anybody should wait."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):  # who doesn't wait any longer has gone
                connection.sendall(start)
                for _ in range(200):
                    connection.sendall(b"a")
                    time.sleep(0.02)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(("scheme", "start"), [("http", b"HTTP/1.1 200 OK\r\nX-Slow: "), ("https", b"\x16\x03\x03\x3f\xff")])
def test_who_answers_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, scheme: str, start: bytes) -> None:
    """Each byte comes in time: of an answer's headers, or of the first record of a TLS handshake."""
    monkeypatch.setattr(callbacks, "TIMEOUT_SECONDS", 0.3)
    before = threading.active_count()
    with trickling(start=start) as port:
        assert post_callback(f"{scheme}://127.0.0.1:{port}/", b"{}", {}) == (False, None)
    started = time.monotonic()
    while threading.active_count() > before and time.monotonic() - started < 10.0:
        time.sleep(0.02)
    assert threading.active_count() <= before, "the call goes on"


def test_a_name_that_is_not_resolved_in_time_is_not_waited_for_and_never_connected_to(
    server: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "TIMEOUT_SECONDS", 0.1)
    resolve, resolved = socket.getaddrinfo, threading.Event()

    def resolve_slowly(*arguments: Any, **named: Any) -> Any:
        resolved.wait(5)
        return resolve(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    assert post_callback(server.url("/"), b"{}", {}) == (False, None)
    resolved.set()
    time.sleep(0.2)
    assert server.received == []


def test_nobody_there() -> None:
    with CallbackServer() as server:
        url = server.url("/")
    assert post_callback(url, b"{}", {}) == (False, None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/cb", "must be https"),
        ("http://127.0.0.1.example.com/", "must be https"),
        ("http://[::1]/", "must be https"),
        ("ftp://localhost/", "must be https"),
        ("file:///etc/passwd", "not an address"),
        ("https://user:word@example.com/", "names a user"),
        ("http://localhost@example.com/", "names a user"),
        ("https:///nowhere", "not an address"),
        ("https://example.com:port/", "not an address"),
        ("https://exa mple.com/", "not an address"),
        ("https://exämple.com/", "not an address"),
        ("https://[broken/", "not an address"),
        ("", "not an address"),
    ],
)
def test_where_nothing_is_sent(url: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        check_callback_url(url)
    assert post_callback(url, b"{}", {}) == (False, None)


@pytest.mark.parametrize("url", ["https://example.com/a?b=c", "https://example.com:8443/", "http://127.0.0.1:80/", "http://localhost/x"])
def test_where_something_may_be_sent(url: str) -> None:
    assert check_callback_url(url) == url
