"""Taking a request in: the bytes are kept and the signature checked before anything is parsed.

Steps, in this order: 1 size, 2 signature over the bytes, 3 strict parsing, 4 the signer is the issuer that the request names, the
pictures that it names are there and its id is free, 5 receipt in the ledger. A refusal at any step is recorded as an event that names
the file's digest and the reason, changes nothing else, and leaves the request id free: what nobody signed must not be able to block a
genuine request.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.requests import DeletionRequest, check_size, parse_request
from tasks.keys import VerifiedIssuer, check_issuer, verify_file
from tasks.ledger import Ledger
from tasks.request_images import find_image_files, keep_images
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A request file that was verified: its bytes, who signed, and the requests in it."""

    content: bytes
    digest: Digest
    issuer: VerifiedIssuer
    requests: tuple[DeletionRequest, ...]


def read_request_file(ws: Workspace, path: Path) -> ReceivedFile:
    """Steps 1 to 4.

    Raises:
        InvalidInputError: there is no such file.
        RequestRefusedError: it is too large, not signed by a registered issuer, or not a request.
    """
    try:
        check_size(path.stat().st_size, path.name)  # 1
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error
    signature = path.with_name(path.name + ".sig")
    issuer = verify_file(ws, content, signature.read_bytes() if signature.is_file() else None)  # 2
    requests = parse_request(content, path.name)  # 3
    check_issuer(requests, issuer)  # 4
    return ReceivedFile(content=content, digest=sha256_digest(content), issuer=issuer, requests=tuple(requests))


def receive_file(ws: Workspace, ledger: Ledger, path: Path, now: datetime) -> ReceivedFile:
    """Steps 1 to 5; a refusal is recorded before it's raised."""
    try:
        received = read_request_file(ws, path)
        new = [request for request in received.requests if ledger.last("received", request.request_id) is None]
        for request in new:
            find_image_files(request, path.parent)  # 4
        _check_ids(ledger, received)  # 4
        for request in new:
            ledger.receive(request.request_id, request.issuer, received.digest, received.content, now)  # 5
            keep_images(ws, request, path.parent)
            body = {"digest": received.digest, "issuer_key": received.issuer.keyid, "regulation": request.regulation}
            ledger.append("received", request.request_id, body, now)
    except RequestRefusedError as error:
        record_refusal(ledger, path, error, now)
        raise
    return received


def _check_ids(ledger: Ledger, received: ReceivedFile) -> None:
    """Before any request of the file is stored: a file is taken in as a whole or not at all."""
    for request in received.requests:
        stored = ledger.request(request.request_id)
        if stored is not None and stored.digest != received.digest:
            raise RequestRefusedError(
                f"request {request.request_id}: the id is already taken by another request body", reason="request_id_reused"
            )


def record_refusal(ledger: Ledger, path: Path, error: RequestRefusedError, now: datetime) -> None:
    """One event: which bytes, and why; never what they say."""
    try:
        digest = _digest_of(path)
    except OSError:
        digest = None
    ledger.append("refused", None, {"digest": digest, "reason": error.reason}, now)


def _digest_of(path: Path) -> Digest | None:
    with path.open("rb") as file:
        return Digest(file_digest(file, "sha256").hexdigest())
