"""POSTing one callback. Nothing personal is in it; the network is touched only where `intake.callbacks` says so.

Redirects aren't followed, so that nobody is told but who was named. The answer's body isn't read.
"""

import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from cdm_core.errors import InvalidInputError

TIMEOUT_SECONDS = 3.0

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
    """(whether it was taken, the HTTP status if there was an answer)."""
    try:
        check_callback_url(url)
        is_here = urlsplit(url).scheme == "http"
        proxies = urllib.request.ProxyHandler({} if is_here else None)
        opener = urllib.request.build_opener(proxies, _NoRedirect())
        request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers})
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return 200 <= answer.status < 300, int(answer.status)
    except HTTPError as error:
        error.close()
        return False, error.code
    except (OSError, ValueError, HTTPException, InvalidInputError):
        return False, None
