"""Grants: who may draw with which shards, and until when.

A grant names the workspace it is for by the keyid of the workspace's key, so that a grant for one model opens no other, whoever signed
it. It travels as a DSSE envelope signed with the workspace's key (the document below is the Statement's predicate, the workspace its
subject), or as the plain document with a registered issuer's signature beside it. Signatures are checked over the bytes first, by
`tasks.models.entitlements`; nothing here decides whom to trust.

What a grant allows is a list of shards. Everything else follows from a composition being a list too: the restricted composition is the
very document that a workspace without the other shards would serve, so neither their adapters nor their counts can reach a pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cdm_core.digests import Digest, Json, canonical_json
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.evidence.envelopes import VerifiedStatement, build_statement

SCHEMA = "lethe/grant/v1"
GRANT_PREDICATE = "https://lethe.dev/attestation/grant/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`subject` may use `shards` of the workspace whose key is `workspace`, before `expires_at`."""

    workspace: str
    subject: str
    shards: tuple[int, ...]
    expires_at: datetime

    def to_document(self) -> dict[str, Json]:
        """The plain form."""
        return {
            "schema": SCHEMA,
            "workspace": self.workspace,
            "subject": self.subject,
            "shards": list(self.shards),
            "expires_at": self.expires_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON of the plain form."""
        return canonical_json(self.to_document())

    def to_statement(self) -> bytes:
        """The payload of a DSSE envelope."""
        return build_statement({"workspace-key": Digest(self.workspace)}, GRANT_PREDICATE, self.to_document())


class _GrantShape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_: Literal["lethe/grant/v1"] = Field(alias="schema")
    workspace: str
    subject: Annotated[str, Field(min_length=1, max_length=256)]
    shards: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1, max_length=1000)]
    expires_at: AwareDatetime


def parse_grant(content: bytes) -> Grant:
    """Read the plain form.

    Raises:
        InvalidInputError: the bytes are not such a document.
    """
    document = load_json(decode_text(content))
    if not isinstance(document, Mapping):
        raise InvalidInputError("not a grant: must be a JSON object")
    return _read(document)


def grant_of(statement: VerifiedStatement) -> Grant:
    """Read the grant that a verified Statement makes.

    Raises:
        InvalidInputError: it states something else, as an audit record does.
    """
    if statement.statement["predicateType"] != GRANT_PREDICATE:
        raise InvalidInputError("signed, but not a grant")
    return _read(statement.predicate)


def require_valid(grant: Grant, workspace: str, now: datetime) -> None:
    """Refuse a grant for another workspace, and one whose time is over.

    Raises:
        RequestRefusedError: `foreign_grant` or `expired_grant`.
    """
    if grant.workspace != workspace:
        raise RequestRefusedError("it is for another workspace", reason="foreign_grant")
    if now >= grant.expires_at:
        raise RequestRefusedError(f"it expired at {grant.to_document()['expires_at']}", reason="expired_grant")


def _read(document: Mapping[str, Json]) -> Grant:
    try:
        shape = _GrantShape.model_validate(document)
    except ValidationError as error:
        raise InvalidInputError(f"not a grant: {describe_problem(error)}") from error
    return Grant(workspace=shape.workspace, subject=shape.subject, shards=tuple(sorted(set(shape.shards))), expires_at=shape.expires_at)
