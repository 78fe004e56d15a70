"""Digests, keyed hashes and seeds: the one place where content becomes a name or a random stream.

Everything that Lethe compares is named by the SHA-256 of its bytes, JSON by the SHA-256 of its RFC 8785 canonical form. A seed is the
hash of what the random numbers are for, so that no draw depends on another one's having happened.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import NewType

import rfc8785

Digest = NewType("Digest", str)
"""A lower-case hexadecimal SHA-256, 64 characters."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def sha256_digest(content: bytes) -> Digest:
    """The digest of `content`."""
    return Digest(hashlib.sha256(content).hexdigest())


def canonical_json(value: Json) -> bytes:
    """The RFC 8785 form: one byte string for equal values."""
    return rfc8785.dumps(value)


def json_digest(value: Json) -> Digest:
    """The digest of a value's canonical form."""
    return sha256_digest(canonical_json(value))


def keyed_hash(secret: bytes, *parts: str) -> Digest:
    """HMAC-SHA-256 of the parts, joined by NUL so that ("ab", "c") and ("a", "bc") differ."""
    return Digest(hmac.new(secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest())


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) for the stream that `parts` name."""
    joined = "\0".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big") >> 1


def derive_uniform(*parts: str | int) -> float:
    """A number in (0, 1) for the draw that `parts` name."""
    # 52 bits and a half: one more and the largest would round to 1.
    return ((derive_seed(*parts) >> 11) + 0.5) / 2**52
