"""The identity table: whose is an e-mail address, a phone number or a customer id, as senders state them.

`.lethe/keys/identities.json` maps a keyed hash of each form in which an identifier may arrive to owner keys: as it is, its MD5, SHA-1 and
SHA-256, and DROP's hash, of the identifier as it was given and in the spellings that senders use. Those hashes of an address are guessed
easily, so they are keyed with the workspace's secret: the file alone tells nothing.

An identifier that several owners share finds nobody: one of them must not be able to erase the other's pictures.

Phone numbers: that the last ten digits alone tell a number is DROP's rule, and holds for its hash. Elsewhere the country counts: `+49 1512
3456789` ends like `+1 512 345 6789` and is another's. Ten digits without a `+` are read as North American, and so are eleven that begin
with 1. Tables of older releases have the last ten digits of every number in the other forms, too; a number as it is doesn't find anybody
by them alone, but a hash of ten digits still does, since nobody can tell what was hashed.

What came of each line of a request stands in an event of the ledger for its answer: the sender's number of the line and one word. A line
whose owner's samples are held is noted anew when the request is taken up again. Unlinking destroys the event's body with the others.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

from cdm_core.digests import Json, canonical_json, keyed_hash
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.intake.case_status import Outcome
from cdm_core.intake.encodings import compute_drop_hash, standardise_email, standardise_phone
from cdm_core.intake.requests import DeletionRequest, Identifier
from cdm_core.sharding.partition import OwnerKey, compute_owner_key
from tasks.data.lookup import look_up
from tasks.data.manifest_store import load_manifests
from tasks.files import write_atomically
from tasks.keys import owner_secret
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.requests.holds import Hold, active_holds, find_held
from tasks.workspace import Workspace

OUTCOMES_EVENT = "outcomes"

_HELD: tuple[Outcome, ...] = ("exempted", "partly_held")
_ALIASES = {"phone_number": "phone", "external_id": "controller_customer_id", "customer_id": "controller_customer_id"}


def add_identities(ws: Workspace, owner_id: str, identifiers: Iterable[tuple[str, str]]) -> int:
    """Say by which (type, value) an owner is known; returns how many were added. The same again changes nothing.

    Raises:
        InvalidInputError: no owner, or nothing usable to know it by.
    """
    given = [(_ALIASES.get(kind, kind), value) for kind, value in identifiers]
    if not owner_id or not given:
        raise InvalidInputError("identities: name an owner, and at least one identifier")
    for kind, value in given:
        if not (value.strip() and value.isprintable() and len(value) <= 4096):
            raise InvalidInputError(f"identities: {kind}: must be printable and not empty")
        if kind == "phone" and len(standardise_phone(value)) < 7:
            raise InvalidInputError("identities: phone: has fewer than 7 digits")
    secret = owner_secret(ws)
    owner_key = compute_owner_key(secret, owner_id)
    with exclusive_lock(ws.keys / ".lock"):
        table = _load_table(ws)
        num_added = 0
        for kind, value in given:
            names = {keyed_hash(secret, "identity", kind, form, text) for form, text in _forms(kind, value)}
            num_added += any(owner_key not in table.get(name, []) for name in names)
            for name in names:
                table[name] = sorted({*table.get(name, []), owner_key})
        _save_table(ws, table)
    return num_added


def find_owner_keys(ws: Workspace, identifier: Identifier) -> set[OwnerKey]:
    """Who is known by an identifier: nobody, one owner, or several."""
    return _lookup(owner_secret(ws), _load_table(ws), identifier)


def resolve_identifiers(ws: Workspace, request: DeletionRequest) -> set[OwnerKey]:
    """The owners that a request's identifiers name, each by one that is theirs alone.

    Raises:
        RequestRefusedError: `ambiguous_identity`: every identifier that finds anyone finds several.
    """
    secret, table = owner_secret(ws), _load_table(ws)
    found = [_lookup(secret, table, identifier) for identifier in request.identifiers]
    alone = {key for keys in found if len(keys) == 1 for key in keys}
    if not alone and any(found):
        raise RequestRefusedError(
            f"request {request.request_id}: what it names belongs to several owners; name one of them by something else",
            reason="ambiguous_identity",
        )
    return alone


def keep_outcomes(ws: Workspace, request: DeletionRequest, now: datetime) -> None:
    """Note what came of each numbered line of a request, before its owners are forgotten; of a known one, only of what was held."""
    labelled = [identifier for identifier in request.identifiers if identifier.label]
    if not labelled:
        return
    secret, table, known = owner_secret(ws), _load_table(ws), load_outcomes(ws, request.request_id)
    stored = {key for manifest in load_manifests(ws).values() for key in manifest["owner_key"].unique()}
    holds = active_holds(ws, now)
    outcomes = dict(known)
    for identifier in labelled:
        before = known.get(identifier.label)
        if before is None or before in _HELD:
            outcome = _outcome(ws, _lookup(secret, table, identifier) & stored, holds)
            # Nobody's any more: what was held was erased meanwhile.
            outcomes[identifier.label] = "matched" if before in _HELD and outcome == "not_found" else outcome
    if outcomes != known:
        Ledger(ws).append(OUTCOMES_EVENT, request.request_id, {"lines": outcomes}, now)


def load_outcomes(ws: Workspace, request_id: str) -> dict[str, Outcome]:
    """What was noted last of a request's lines."""
    event = Ledger(ws).last(OUTCOMES_EVENT, request_id)
    return {} if event is None else dict(cast(Mapping[str, Outcome], event.body["lines"]))


def forget_identities(ws: Workspace, owner_keys: Iterable[str]) -> int:
    """Erase what is known of owners who have no samples left; returns how many entries went."""
    left = {key for manifest in load_manifests(ws).values() for key in manifest["owner_key"].unique()}
    gone = set(owner_keys) - left
    with exclusive_lock(ws.keys / ".lock"):
        table = _load_table(ws)
        kept = {name: [key for key in keys if key not in gone] for name, keys in table.items()}
        kept = {name: keys for name, keys in kept.items() if keys}
        if kept != table:
            _save_table(ws, kept)
    return len(table) - len(kept)


def _outcome(ws: Workspace, owner_keys: set[OwnerKey], holds: Sequence[Hold]) -> Outcome:
    if len(owner_keys) != 1:
        return "shared" if owner_keys else "not_found"
    samples = look_up(ws, owner_keys=owner_keys)
    held, _ = find_held(samples, holds)
    return "matched" if held.empty else "exempted" if len(held) == len(samples) else "partly_held"


def _lookup(secret: bytes, table: Mapping[str, list[str]], identifier: Identifier) -> set[OwnerKey]:
    kind = _ALIASES.get(identifier.type, identifier.type)

    def known(*texts: str) -> set[OwnerKey]:
        names = (keyed_hash(secret, "identity", kind, identifier.format, text) for text in texts)
        return {OwnerKey(key) for name in names for key in table.get(name, [])}

    if identifier.format != "raw":
        return known(identifier.value if identifier.format == "drop" else identifier.value.lower())
    texts = _spellings(kind, identifier.value)
    if kind != "phone":
        return known(*texts)
    ten = standardise_phone(identifier.value)
    # An older table has the last ten digits of everybody's number; with a + before them only of one that was given so.
    return known(*texts - {ten}) | (known(ten) & known(f"+{ten}") if ten in texts else set())


def _spellings(kind: str, value: str) -> set[str]:
    """A value as it was given, and as senders may write it."""
    match kind:
        case "email":
            return {value, standardise_email(value)}
        case "phone":
            return {value, *_spell_phone(value)}
    return {value, value.strip()}


def _spell_phone(value: str) -> set[str]:
    digits = "".join(character for character in value if character in "0123456789")
    has_country = "+" in value
    if len(digits) == 10 and has_country:
        return {f"+{digits}"}  # without the + it would be a North American one
    if len(digits) == 10 or (len(digits) == 11 and digits.startswith("1")):
        ten = digits[-10:]
        return {ten, f"1{ten}", f"+1{ten}"}
    return {digits, f"+{digits}"}


def _forms(kind: str, value: str) -> set[tuple[str, str]]:
    """(format, text) of each form in which the value may arrive."""
    forms = {("drop", compute_drop_hash(_standardise(kind, value)))}
    for text in _spellings(kind, value):
        content = text.encode()
        forms |= {
            ("raw", text),
            ("md5", hashlib.md5(content, usedforsecurity=False).hexdigest()),
            ("sha1", hashlib.sha1(content, usedforsecurity=False).hexdigest()),
            ("sha256", hashlib.sha256(content).hexdigest()),
        }
    return forms


def _standardise(kind: str, value: str) -> str:
    return standardise_phone(value) if kind == "phone" else standardise_email(value) if kind == "email" else value.strip()


def _load_table(ws: Workspace) -> dict[str, list[str]]:
    path = _table_path(ws)
    try:
        table: dict[str, list[str]] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StateError(f"{path}: the identity table is damaged; restore it from a backup") from error
    return table


def _save_table(ws: Workspace, table: Mapping[str, list[str]]) -> None:
    content: Json = table
    write_atomically(_table_path(ws), canonical_json(content), mode=0o600)


def _table_path(ws: Workspace) -> Path:
    return ws.keys / "identities.json"
