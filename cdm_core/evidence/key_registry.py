"""The key registry: which key is whose, in which roles, and from when to when it counts.

The registry is an in-toto Statement in a DSSE envelope, signed with the workspace's key, so that a changed byte is refused. It has a
`revision`, which rises with every change: the ledger names the newest, and an older registry put back in its place is seen by that.

A signature counts if its key had the role at the signature's trusted time, the time at which the ledger recorded it; the time that a
signed document states for itself proves nothing. A key that was stolen is revoked since the day of the theft: what was recorded before
stays good.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError
from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Json, json_digest
from cdm_core.documents import describe_problem
from cdm_core.errors import VerificationError
from cdm_core.evidence.envelopes import build_statement, parse_public_key, sign_envelope, verify_envelope
from cdm_core.evidence.key_validity import Party, Validity
from cdm_core.intake.senders import KeyFile, SenderKey, parse_key_file

REGISTRY_PREDICATE = "https://lethe.dev/attestation/key-registry/v1"
ISSUER_ROLE = "issuer"
RECORDER_ROLE = "recorder"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """One key. It counts from `valid_from` until before `valid_until` and before `revoked_at`; None sets no bound.

    `past_roles` are those that it had and has no more: what it signed in them is still judged by its validity.
    """

    keyid: str
    name: str
    roles: tuple[str, ...]
    public_key: str
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    revoked_at: datetime | None = None
    revocation_reason: str | None = None
    past_roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Validity(valid_from=self.valid_from, valid_until=self.valid_until, revoked_at=self.revoked_at)  # checks the times

    @property
    def validity(self) -> Validity:
        """When it counts."""
        return Validity(valid_from=self.valid_from, valid_until=self.valid_until, revoked_at=self.revoked_at)

    def why_invalid(self, at: datetime) -> str | None:
        """Why the key doesn't count at a time; None if it does."""
        return self.validity.why_invalid(at)

    def key(self) -> Key:
        """The public key of who signs records and approvals, which is an Ed25519 key.

        Raises:
            InvalidInputError: it's of another algorithm, as issuers' may be.
            VerificationError: the entry's keyid is another key's.
        """
        self._parse()
        return parse_public_key(self.public_key.encode(), f"key {self.keyid[:12]}")

    def sender_key(self, at: datetime) -> SenderKey:
        """The public key of who signs requests, as it counts at a time.

        Raises:
            VerificationError: the entry's keyid is another key's.
        """
        return SenderKey(issuer=self.name, keyid=self.keyid, public_key=self._parse().public_key, problem=self.why_invalid(at))

    @property
    def is_ed25519(self) -> bool:
        """Whether records and approvals can be signed with it."""
        return isinstance(self._parse().public_key, Ed25519PublicKey)

    def _parse(self) -> KeyFile:
        parsed = parse_key_file(self.public_key.encode(), f"key {self.keyid[:12]}")
        if parsed.keyid != self.keyid:
            raise VerificationError(f"key {self.keyid[:12]}: the entry holds another key")
        return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRegistry:
    """All keys there ever were: an entry is revoked, never removed."""

    revision: int = 0
    entries: tuple[KeyEntry, ...] = ()

    def with_role(self, role: str) -> list[KeyEntry]:
        """Entries that have the role, valid or not, by name."""
        return sorted((entry for entry in self.entries if role in entry.roles), key=lambda entry: (entry.name, entry.keyid))

    def find(self, keyid: str) -> KeyEntry | None:
        """The entry of a key."""
        return next((entry for entry in self.entries if entry.keyid == keyid), None)

    @property
    def parties(self) -> dict[str, Party]:
        """Keys with the roles that they have or had, and their validity, by keyid; no name."""
        return {
            entry.keyid: Party(keyid=entry.keyid, roles=(*entry.roles, *entry.past_roles), validity=entry.validity)
            for entry in self.entries
        }

    def replace(self, entry: KeyEntry) -> "KeyRegistry":
        """The next revision, with this entry in place of the one of its key."""
        others = [other for other in self.entries if other.keyid != entry.keyid]
        return KeyRegistry(revision=self.revision + 1, entries=tuple(sorted([*others, entry], key=lambda each: each.keyid)))


def sign_registry(registry: KeyRegistry, signer: Signer) -> bytes:
    """The registry as a signed file."""
    content: dict[str, Json] = {"revision": registry.revision, "entries": [_to_json(entry) for entry in registry.entries]}
    return sign_envelope(build_statement({"key-registry": json_digest(content)}, REGISTRY_PREDICATE, content), signer)


def verify_registry(content: bytes, keys: Sequence[Key]) -> KeyRegistry:
    """The registry in a signed file.

    Raises:
        VerificationError: the signature doesn't hold, or what was signed is no registry.
    """
    statement = verify_envelope(content, keys)
    if statement.statement["predicateType"] != REGISTRY_PREDICATE:
        raise VerificationError("signed, but not as a key registry")
    try:
        return TypeAdapter(KeyRegistry).validate_python(dict(statement.predicate))
    except ValidationError as error:
        raise VerificationError(f"signed, but not a key registry: {describe_problem(error)}") from error


def _to_json(entry: KeyEntry) -> dict[str, Json]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(entry).items()}
