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
from cdm_core.intake.callbacks import check_callback_url

TIMEOUT_SECONDS = 3.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None  # then urllib raises the redirect as the error it is here


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
