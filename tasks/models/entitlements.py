"""Grants on disk: made with the workspace's key, and judged before a model is put together.

Order of the checks: 1. the signature, over the file's bytes (`FILE.sig` by a registered issuer if there is one, else a DSSE envelope by
the workspace's key); 2. the document; 3. that it is for this workspace and its time isn't over.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cdm_core.errors import InvalidInputError, LetheError, RequestRefusedError, VerificationError
from cdm_core.evidence.envelopes import sign_envelope, verify_envelope
from cdm_core.evidence.grants import Grant, grant_of, parse_grant, require_valid
from cdm_core.intake.requests import check_size
from tasks.files import write_output
from tasks.keys import verify_file, workspace_key, workspace_signer
from tasks.workspace import Workspace


def write_grant(ws: Workspace, out: Path, *, subject: str, shards: Sequence[int], expires_at: datetime) -> Grant:
    """Sign a grant with the workspace's key.

    Raises:
        InvalidInputError: the subject's name is unusable, the workspace has no such shard, or `out` can't be written.
    """
    if not (subject and subject.isprintable() and subject == subject.strip() and len(subject) <= 256):
        raise InvalidInputError("subject: must be 1 to 256 printable characters without spaces around them")
    unknown = sorted(set(shards) - set(ws.settings().shard_ids))
    if unknown:
        raise InvalidInputError(f"shard {unknown[0]}: params.yaml has {ws.settings().shard_ids}")
    grant = Grant(workspace=workspace_key(ws).keyid, subject=subject, shards=tuple(sorted(set(shards))), expires_at=expires_at)
    write_output(out, sign_envelope(grant.to_statement(), workspace_signer(ws)))
    return grant


def load_grant(ws: Workspace, path: Path, now: datetime) -> Grant:
    """A grant that holds in this workspace now.

    Raises:
        InvalidInputError: there is no such file, or what was signed is no grant.
        VerificationError: the signature is missing or doesn't hold.
        RequestRefusedError: it is for another workspace, expired, or too large.
    """
    try:
        check_size(path.stat().st_size, str(path))
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error
    try:
        grant = _verify(ws, content, path.with_name(f"{path.name}.sig"))
        require_valid(grant, workspace_key(ws).keyid, now)
    except RequestRefusedError as error:
        raise RequestRefusedError(f"{path}: grant refused: {error}", reason=error.reason) from error
    except LetheError as error:
        raise type(error)(f"{path}: grant refused: {error}") from error
    return grant


def _verify(ws: Workspace, content: bytes, signature: Path) -> Grant:
    if not signature.is_file():
        return grant_of(verify_envelope(content, [workspace_key(ws)]))
    try:
        verify_file(ws, content, signature.read_bytes())
    except RequestRefusedError as error:
        raise VerificationError(f"its signature holds for no registered issuer ({error.reason})") from error
    return parse_grant(content)
