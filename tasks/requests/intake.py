"""Taking a request in: the bytes are kept and the signature checked before anything is parsed.

Steps, in this order: 1 size, 2 signature over the bytes, 3 strict parsing, 4 the signer is the issuer that the request names and its times
fit, the pictures that it names are there and its id is free, 5 receipt in the ledger. `cdm_core.intake.reception` does 2 to 4 for every
form. A refusal at any step is recorded as an event that names the file's digest and the reason, changes nothing else, and leaves the
request id free: what nobody signed must not be able to block a genuine request.

A request is known by its issuer, its id and its body's digest. Whoever comes first with an id has it as the ledger's; another issuer's
request of that id stands beside it as `<id>@<tag of the issuer>`. The same issuer's other body is refused, the same body is the same
request: it is judged at the time of its first receipt, and answered as before.

`FILE.sig` holds a detached signature. `FILE.headers.json` stands for it where a gateway took the request over HTTP: the headers by name,
of which the signature, the processor domain and `Received-At` count, the time at which the gateway had it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path

from cdm_core.digests import Digest, Json, keyed_hash, sha256_digest
from cdm_core.documents import decode_text, load_json
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.detection import FORMATS, Format, detect_format, size_limit
from cdm_core.intake.fields import parse_time
from cdm_core.intake.opendsr import DOMAIN_HEADER, SIGNATURE_HEADER
from cdm_core.intake.reception import Parcel, describe_refusal, judge
from cdm_core.intake.requests import SYNTAXES, DeletionRequest, Syntax, check_size, choose_syntax
from tasks.keys import VerifiedIssuer, owner_secret, sender_keys
from tasks.ledger.store import Ledger
from tasks.requests.request_images import find_image_files, keep_images
from tasks.workspace import Workspace

_RECEIVED_HEADER = "Received-At"
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No gateway had a request before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A request file that was verified: its bytes, who signed, and the requests in it, under the ids that the ledger has for them.

    `first_party_key` is the keyid of the second who signed, where the form has one; `syntax` is how a file of our own form is written.
    """

    content: bytes
    digest: Digest
    issuer: VerifiedIssuer
    requests: tuple[DeletionRequest, ...]
    format: Format
    notes: tuple[str, ...]
    received_at: datetime
    first_party_key: str | None = None
    syntax: Syntax | None = None

    @property
    def keyids(self) -> list[str]:
        """Of all who signed."""
        return [keyid for keyid in (self.issuer.keyid, self.first_party_key) if keyid is not None]


def read_request_file(ws: Workspace, ledger: Ledger, path: Path, now: datetime, form: Format | None = None) -> ReceivedFile:
    """Steps 1 to 4, and the ledger's ids.

    Raises:
        InvalidInputError: there is no such file.
        RequestRefusedError: it is too large, not signed by a registered issuer, or not a request.
    """
    content = read_content(path)  # 1
    digest = sha256_digest(content)
    signature, headers = _read_signature(path)
    parcel = Parcel(content=content, file_name=path.name, signature=signature, domain=headers.get(DOMAIN_HEADER.lower()))
    received_at = _first_receipt(ledger, digest) or _gateway_time(headers, path, now) or now
    # Keys are judged by the ledger's own time: a gateway's is unsigned, and could be set back to before a theft.
    keys = sender_keys(ws, now, _find_recorded(ledger, digest))
    accepted = judge(parcel, keys, business=ws.settings().intake.business, now=received_at, form=form)  # 2 to 4
    issuer = VerifiedIssuer(issuer=accepted.signer.issuer, keyid=accepted.signer.keyid)
    first_party = None if accepted.first_party is None else accepted.first_party.keyid
    requests = tuple(_with_ledger_id(ws, ledger, request) for request in accepted.requests)
    return ReceivedFile(
        content=content,
        digest=digest,
        issuer=issuer,
        requests=requests,
        format=accepted.format,
        notes=accepted.notes,
        received_at=received_at,
        first_party_key=first_party,
        syntax=choose_syntax(content, path.name) if accepted.format == "own" else None,
    )


def receive_file(
    ws: Workspace, ledger: Ledger, path: Path, now: datetime, form: Format | None = None, *, records_refusal: bool = True
) -> ReceivedFile:
    """Steps 1 to 5; a refusal says the sender's own reason at its end.

    It is recorded before it's raised, unless the caller tries again and leaves that to the next time.
    """
    try:
        received = read_request_file(ws, ledger, path, now, form)
        new = [request for request in received.requests if ledger.last("received", request.request_id) is None]
        for request in new:
            find_image_files(request, path.parent)  # 4
        _check_ids(ledger, received)  # 4
        _check_spent(ws, ledger, received.digest, new)  # 4
        with ledger.together():  # 5
            for request in new:
                ledger.receive(request.request_id, request.issuer, received.digest, received.content, received.received_at)
            for request in new:  # no picture is kept for a file that was refused meanwhile
                keep_images(ws, request, path.parent)
                ledger.append("received", request.request_id, _describe(ws, received, request), now)
    except RequestRefusedError as error:
        words = record_refusal(ledger, path, error, now, form) if records_refusal else None
        if words is None or str(error).endswith(f"[{words}]"):
            raise
        raise RequestRefusedError(f"{error} [{words}]", reason=error.reason) from error
    return received


def read_content(path: Path) -> bytes:
    """A request file's bytes, if they aren't too many.

    Raises:
        InvalidInputError: there is no such file.
        RequestRefusedError: `too_large`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            check_size(path.stat().st_size, path.name, size_limit(head))
            return head + file.read(size_limit(head))
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error


def issuer_tag(ws: Workspace, issuer: str) -> str:
    """Tells issuers apart without naming them."""
    return keyed_hash(owner_secret(ws), "issuer", issuer)[:16]


def read_format(received: Mapping[str, Json]) -> Format:
    """The form that a `received` event names; those of old name none."""
    return next((form for form in FORMATS if form == received.get("format")), "own")


def read_syntax(received: Mapping[str, Json], content: bytes) -> Syntax:
    """How the bytes are written, as a `received` event says it; those of old don't, and the bytes have to."""
    return next((syntax for syntax in SYNTAXES if syntax == received.get("syntax")), None) or choose_syntax(content)


def headers_file(path: Path) -> Path:
    """Where a gateway leaves the headers that came with a request."""
    return path.with_name(f"{path.name}.headers.json")


def _describe(ws: Workspace, received: ReceivedFile, request: DeletionRequest) -> Mapping[str, Json]:
    body: dict[str, Json] = {
        "digest": received.digest,
        "issuer_key": received.issuer.keyid,
        "issuer_tag": issuer_tag(ws, request.issuer),
        "regulation": request.regulation,
        "format": received.format,
    }
    if received.first_party_key is not None:
        body["first_party_key"] = received.first_party_key
    if received.syntax is not None:
        body["syntax"] = received.syntax
    return body | {"notes": list(received.notes)} if received.notes else body


def _with_ledger_id(ws: Workspace, ledger: Ledger, request: DeletionRequest) -> DeletionRequest:
    first, tag = ledger.last("received", request.request_id), issuer_tag(ws, request.issuer)
    is_ours = first is None or first.body.get("issuer_tag", tag) == tag
    return request if is_ours else replace(request, request_id=f"{request.request_id}@{tag}")


def _first_receipt(ledger: Ledger, digest: Digest) -> datetime | None:
    """When these bytes were accepted for the first time."""
    return next((stored.received_at for stored in ledger.requests() if stored.digest == digest), None)


def _find_recorded(ledger: Ledger, digest: Digest) -> dict[str, datetime]:
    """When the ledger first recorded a key's signature over these bytes, by keyid."""
    found: dict[str, datetime] = {}
    for event in ledger.events(kind="received"):
        if event.body.get("digest") == digest:
            for keyid in (event.body.get("issuer_key"), event.body.get("first_party_key")):
                if keyid:
                    found.setdefault(str(keyid), event.at)
    return found


def _read_signature(path: Path) -> tuple[bytes | None, Mapping[str, str]]:
    """The detached signature, and the headers by their names in lower case."""
    sidecar, signature = headers_file(path), path.with_name(path.name + ".sig")
    headers: dict[str, str] = {}
    try:
        if sidecar.is_file():
            headers = _parse_headers(_read_small(sidecar), sidecar)
        if signature.is_file():
            return _read_small(signature), headers
    except OSError as error:
        raise InvalidInputError(f"{path}: its signature can't be read: {error.strerror}") from error
    text = headers.get(SIGNATURE_HEADER.lower())
    return (None if text is None else text.encode()), headers


def _read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100_000)


def _parse_headers(content: bytes, path: Path) -> dict[str, str]:
    try:
        headers = load_json(decode_text(content))
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise InvalidInputError("must be an object of texts")
    except InvalidInputError as error:
        raise RequestRefusedError(f"{path.name}: {error}", reason="bad_headers") from error
    return {name.lower(): str(value) for name, value in headers.items()}


def _gateway_time(headers: Mapping[str, str], path: Path, now: datetime) -> datetime | None:
    text = headers.get(_RECEIVED_HEADER.lower())
    if text is None:
        return None
    try:
        time = parse_time(text)
    except ValueError as error:
        raise RequestRefusedError(f"{path.name}: {_RECEIVED_HEADER}: {error}", reason="bad_headers") from error
    if time > now or time < _EARLIEST:
        where = "in the future" if time > now else f"before {_EARLIEST.year}"
        raise RequestRefusedError(f"{path.name}: {_RECEIVED_HEADER}: lies {where}", reason="bad_headers")
    return time


def _check_ids(ledger: Ledger, received: ReceivedFile) -> None:
    """Before any request of the file is stored: a file is taken in as a whole or not at all."""
    for request in received.requests:
        stored = ledger.request(request.request_id)
        if stored is not None and stored.digest != received.digest:
            raise RequestRefusedError(
                f"request {request.request_id}: the id is already taken by another request body", reason="request_id_reused"
            )


def spent_hash(ws: Workspace, digest: Digest, request_id: str) -> str:
    """What the suppression list holds of a request that was unlinked (`tasks.ledger.unlinking`)."""
    return keyed_hash(owner_secret(ws), "spent", digest, request_id.partition("@")[0])


def _check_spent(ws: Workspace, ledger: Ledger, digest: Digest, new: Sequence[DeletionRequest]) -> None:
    """A request that was carried out and unlinked is no new one."""
    hashes = {spent_hash(ws, digest, request.request_id): request.request_id for request in new}
    if spent := ledger.is_suppressed(list(hashes)):
        raise RequestRefusedError(f"request {hashes[min(spent)]}: was carried out before and unlinked", reason="replayed")


def record_refusal(ledger: Ledger, path: Path, error: RequestRefusedError, now: datetime, form: Format | None = None) -> str | None:
    """One event: which bytes, and why, in our word and in the sender's, which is returned; never what they say.

    Of what is too large the size is recorded in place of the digest: it isn't read.
    """
    body: dict[str, Json] = {"digest": None, "reason": error.reason}
    found = form or "own"
    with suppress(OSError):
        if error.reason == "too_large":
            body["bytes"] = path.stat().st_size
        else:
            body["digest"] = _digest_of(path)
        with path.open("rb") as file:
            found = form or detect_format(file.read(size_limit(b"")))
    if (words := describe_refusal(found, error.reason)) is not None:
        body |= {"format": found, "sender_reason": words}
    ledger.append("refused", None, body, now)
    return words


def _digest_of(path: Path) -> Digest | None:
    with path.open("rb") as file:
        return Digest(file_digest(file, "sha256").hexdigest())
