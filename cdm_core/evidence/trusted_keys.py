"""The key list: whose signatures a stranger trusts, how many of them, and which time-stamp authorities.

A list that was exported names its own digest and has one spelling, so a byte that changed on the way is noticed. That shows damage, not
who made the list: it must come from the workspace's operator by a way that its reader trusts. A list written by hand may leave the digest
out, and may give a public key as PEM or as the base64 of its 32 bytes.

A key may have a validity (`valid_from`, `valid_until`, `revoked_at`): an auditor who learns that a workspace's key was stolen writes its
revocation here, since the registry that this key signs can't tell. `parties` are the keys that sign requests and approvals, by keyid, role
and validity and without names: they sign no record, and are judged where a receipt or a record names them.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Json, canonical_json, json_digest
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError
from cdm_core.evidence.envelopes import build_public_key, parse_public_key
from cdm_core.evidence.key_validity import Party, Validity

SCHEMA = "lethe/trusted-keys/v1"
_MAX_KEYS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKeys:
    """Keys, and their holders' names and their validity by keyid; `authorities` are root certificates in PEM.

    `parties` is None where the list says nothing of those who sign requests and approvals.
    """

    keys: tuple[Key, ...]
    names: Mapping[str, str]
    threshold: int
    authorities: tuple[str, ...]
    validity: Mapping[str, Validity] = field(default_factory=dict)
    parties: Mapping[str, Party] | None = None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _require_date(value: object) -> object:
    """Pydantic takes a number, or digits alone, for seconds since 1970: 20250101 would be a day of that year."""
    if value is not None and not (isinstance(value, str) and re.match(r"\d{4}-\d{2}-\d{2}", value)):
        raise ValueError("must be a time as text, such as 2026-11-24T09:00:00Z")
    return value


_Time = Annotated[AwareDatetime | None, BeforeValidator(_require_date)]


class _ValidityShape(_Model):
    valid_from: _Time = None
    valid_until: _Time = None
    revoked_at: _Time = None

    def to_validity(self) -> Validity:
        return Validity(valid_from=self.valid_from, valid_until=self.valid_until, revoked_at=self.revoked_at)


class _PartyShape(_ValidityShape):
    keyid: str = Field(pattern=r"\A[0-9a-f]{64}\z")
    roles: list[str] = Field(max_length=100)


class _KeyShape(_ValidityShape):
    name: str = Field(min_length=1, max_length=256)
    public_key: str = Field(min_length=1, max_length=10_000)
    keyid: str | None = None


class _AuthorityShape(_Model):
    name: str = Field(min_length=1, max_length=256)
    certificate: str = Field(min_length=1, max_length=100_000)


class _ListShape(_Model):
    schema_: Literal["lethe/trusted-keys/v1"] = Field(alias="schema")
    keys: list[_KeyShape] = Field(min_length=1, max_length=_MAX_KEYS)
    threshold: int = Field(default=1, ge=1, le=_MAX_KEYS, strict=True)
    timestamp_authorities: list[_AuthorityShape] = Field(default=[], max_length=100)
    parties: list[_PartyShape] | None = Field(default=None, max_length=100_000)
    digest: str | None = None


def build_key_list(
    keys: Sequence[tuple[str, Key]], authorities: Mapping[str, str], *, threshold: int = 1, parties: Iterable[Party] = ()
) -> bytes:
    """The list's bytes, from (name, key), from authorities' names and certificates, and from who signs requests and approvals."""
    entries: list[Json] = [{"name": name, "keyid": key.keyid, "public_key": _encode_pem(key)} for name, key in keys]
    document: dict[str, Json] = {
        "schema": SCHEMA,
        "keys": entries,
        "threshold": threshold,
        "timestamp_authorities": [{"name": name, "certificate": certificate} for name, certificate in authorities.items()],
        "parties": [_describe_party(party) for party in parties],
    }
    return _spell({**document, "digest": json_digest(document)})


def parse_key_list(content: bytes, source: str) -> TrustedKeys:
    """A list from its bytes; `source` names it in errors.

    Raises:
        InvalidInputError: not a key list, changed since it was exported, or a key that isn't one or is listed twice.
    """
    try:
        document = load_json(decode_text(content))
        shape = _ListShape.model_validate(document)
    except ValidationError as error:
        raise InvalidInputError(f"{source}: not a key list: {describe_problem(error)}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{source}: not a key list: {error}") from error
    assert isinstance(document, dict), "the shape is a mapping's"
    if "digest" in document:
        rest = {name: value for name, value in document.items() if name != "digest"}
        if document["digest"] != json_digest(rest) or _spell(document) != content:
            raise InvalidInputError(f"{source}: the key list was changed since it was exported")
    keys: dict[str, str] = {}
    parsed: list[Key] = []
    for entry in shape.keys:
        key = _parse_key(entry.public_key, f"{source}: key of {entry.name!r:.100}")
        if entry.keyid not in (None, key.keyid) or key.keyid in keys:
            raise InvalidInputError(f"{source}: key of {entry.name!r:.100}: is not the one of its keyid, or is listed twice")
        keys[key.keyid] = entry.name
        parsed.append(key)
    if shape.threshold > len(parsed):
        raise InvalidInputError(f"{source}: asks for {shape.threshold} signatures and lists {len(parsed)} keys")
    certificates = tuple(authority.certificate for authority in shape.timestamp_authorities)
    return TrustedKeys(
        keys=tuple(parsed),
        names=keys,
        threshold=shape.threshold,
        authorities=certificates,
        validity={key.keyid: entry.to_validity() for key, entry in zip(parsed, shape.keys, strict=True)},
        parties=None if shape.parties is None else _read_parties(shape.parties, source),
    )


def _describe_party(party: Party) -> dict[str, Json]:
    times = {"valid_from": party.validity.valid_from, "valid_until": party.validity.valid_until, "revoked_at": party.validity.revoked_at}
    return {
        "keyid": party.keyid,
        "roles": list(party.roles),
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
    }


def _read_parties(shapes: Sequence[_PartyShape], source: str) -> dict[str, Party]:
    parties: dict[str, Party] = {}
    for shape in shapes:
        if shape.keyid in parties:
            raise InvalidInputError(f"{source}: party {shape.keyid[:16]}: is listed twice")
        parties[shape.keyid] = Party(keyid=shape.keyid, roles=tuple(shape.roles), validity=shape.to_validity())
    return parties


def _spell(document: Mapping[str, Json]) -> bytes:
    return json.dumps(json.loads(canonical_json(document)), indent=2, ensure_ascii=False).encode() + b"\n"


def _encode_pem(key: Key) -> str:
    public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _parse_key(text: str, source: str) -> SSlibKey:
    if "BEGIN" in text:
        return parse_public_key(text.encode(), source)
    try:
        return build_public_key(Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{source}: neither PEM nor the base64 of an Ed25519 key") from error
