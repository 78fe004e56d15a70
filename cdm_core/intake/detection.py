"""Telling the forms apart by content, from so little of it that nothing untrusted is parsed before its signature holds.

A ZIP begins with its magic number. A JSON Web Token is three base64url parts; a DRP body is base64 and nothing else. An array is a fides
import. An object is OpenDSR's if it has one of its keys and doesn't name our own schema. All the rest is ours, to be refused by our parser.
"""

import re
from typing import Literal, get_args

from cdm_core.intake.drop import MAX_ARCHIVE_BYTES
from cdm_core.intake.requests import MAX_REQUEST_BYTES

Format = Literal["own", "opendsr", "drp", "fides", "iab", "drop"]
FORMATS: tuple[Format, ...] = get_args(Format)

_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{88,}={0,2}\r?\n?")


def detect_format(content: bytes) -> Format:
    """Which form the content has, if it has any."""
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "drop"
    if _TOKEN.match(content):
        return "iab"
    if _BASE64.fullmatch(content):
        return "drp"
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return "fides"
    is_ours = b"lethe/deletion-request/" in content
    if start.startswith(b"{") and not is_ours and re.search(rb'"subject_(request_id|request_type|identities)"', content):
        return "opendsr"
    return "own"


def size_limit(first_bytes: bytes) -> int:
    """How large a file that begins so may be."""
    return MAX_ARCHIVE_BYTES if first_bytes.startswith(b"PK") else MAX_REQUEST_BYTES


def find_form(name: str) -> Format | None:
    """The form of that name; None for any other, such as `auto`."""
    return next((form for form in FORMATS if form == name), None)
