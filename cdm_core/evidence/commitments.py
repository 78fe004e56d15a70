"""Salted commitments: what the ledger's tree holds of an event.

The leaf is SHA-256(salt ‖ canonical event). Whoever is shown event and salt can check the leaf; without the salt, the leaf tells nothing,
not even to someone who guesses the event. So destroying a salt unlinks the event's person, and every proof over the leaf stays valid.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cdm_core.digests import Digest, Json, canonical_json

SALT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedEvent:
    """An event with its salt: what opens a commitment. `at` is the text that was committed to."""

    seq: int
    at: str
    kind: str
    request_id: str | None
    body: Mapping[str, Json]
    salt: bytes

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes")

    @property
    def commitment(self) -> Digest:
        """The leaf, in hexadecimal."""
        event: Json = {"seq": self.seq, "at": self.at, "kind": self.kind, "request_id": self.request_id, "body": self.body}
        return Digest(hashlib.sha256(self.salt + canonical_json(event)).hexdigest())
