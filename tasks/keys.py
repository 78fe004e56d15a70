"""The keys of a workspace: its own signing key, the owner-key secret, and the registry of who may sign requests.

Under `.lethe/keys/`: `workspace.private.pem` signs audit records and `workspace.pem` checks them; `owner-secret` keys the hash of owner
ids; `registry.json` is the signed registry of keys, names, roles and validity (`cdm_core.evidence.key_registry`), and `issuers/<keyid>.pem`
holds the same public keys as files. Names may be persons' names, so they stand in the registry alone and no file is called after one.
Issuers' keys lie one folder down since they sign requests, never records. An older workspace's `issuers.json` is taken over into the
registry.

A keyid is the SHA-256 of the key's DER SubjectPublicKeyInfo. A signature file holds one line: the base64 of the raw signature over the
request file's bytes. It states no key; whose it is, is found by trying every registered key by that key's own algorithm. Issuers
may bring Ed25519, RSA and EC P-256 keys, or a certificate of one; keys that sign records, plans or approvals are Ed25519.
"""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError, VerificationError
from cdm_core.evidence.envelopes import build_public_key, parse_public_key
from cdm_core.evidence.key_registry import ISSUER_ROLE, RECORDER_ROLE, KeyEntry, KeyRegistry, sign_registry, verify_registry
from cdm_core.intake.detection import size_limit
from cdm_core.intake.reception import Parcel, verify_detached
from cdm_core.intake.requests import DeletionRequest, check_size
from cdm_core.intake.senders import KeyFile, SenderKey, parse_key_file
from tasks.clock import utc_now
from tasks.files import write_atomically, write_output
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """A registered issuer; `path` is the public key's PEM."""

    issuer: str
    keyid: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedIssuer:
    """Who signed a file, and with which key."""

    issuer: str
    keyid: str


def create_keys(ws: Workspace) -> None:
    """Make the signing key and the owner-key secret where they are missing; what exists is never replaced."""
    ws.keys.mkdir(parents=True, exist_ok=True)
    ws.keys.chmod(0o700)
    with exclusive_lock(ws.keys / ".lock"):
        if not (ws.keys / "workspace.private.pem").exists():
            _write_private_key(ws.keys / "workspace.private.pem", Ed25519PrivateKey.generate())
        # From the private key each time: a crash between the two files leaves nothing to repair by hand.
        _write_public_key(ws.keys / "workspace.pem", _load_private_key(ws.keys / "workspace.private.pem"))
        if not (ws.keys / "owner-secret").exists():
            write_atomically(ws.keys / "owner-secret", secrets.token_hex(32).encode() + b"\n", mode=0o600)


def workspace_signer(ws: Workspace) -> CryptoSigner:
    """What signs the workspace's audit records.

    Raises:
        StateError: the key is missing or unreadable.
    """
    return load_private_signer(ws.keys / "workspace.private.pem")


def load_private_signer(path: Path) -> CryptoSigner:
    """What signs with the Ed25519 private key in a PEM file.

    Raises:
        StateError: the key is missing or unreadable.
    """
    private_key = _load_private_key(path)
    return CryptoSigner(private_key, build_public_key(private_key.public_key()))


def workspace_key(ws: Workspace) -> Key:
    """The public half of `workspace_signer`."""
    return _load_public_key(ws.keys / "workspace.pem")


def owner_secret(ws: Workspace) -> bytes:
    """The 32 bytes that key the hash of owner ids.

    Raises:
        StateError: the secret is missing or damaged.
    """
    path = ws.keys / "owner-secret"
    try:
        secret = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise StateError(f"{path}: the owner-key secret is missing or damaged; restore it from a backup") from error
    if len(secret) != 32:
        raise StateError(f"{path}: the owner-key secret has {len(secret)} bytes, not 32; restore it from a backup")
    return secret


def add_issuer(ws: Workspace, name: str, public_key_file: Path | None) -> IssuerKey:
    """Register who may sign requests: with their public key or certificate, or with a new pair made here. The same again changes nothing.

    Raises:
        InvalidInputError: the name or the key file is not usable, or the certificate has expired.
        StateError: the name has another key, or the key another name: a signature must tell exactly one issuer. Or it's the workspace's.
    """
    _check_name(name)
    given = None if public_key_file is None else parse_key_file(_read_key_file(public_key_file), str(public_key_file))
    (ws.keys / "issuers").mkdir(parents=True, exist_ok=True)
    with exclusive_lock(ws.keys / ".lock"):
        registry = load_registry(ws)
        keyid_by_name = _issuer_index(registry, utc_now())
        known = keyid_by_name.get(name)
        if given is None:
            keyid = known or _generate_issuer_key(ws)
        else:
            keyid = given.keyid
            _refuse_own(registry, keyid, str(public_key_file))
            if known not in (None, keyid):
                raise StateError(f"issuer {name}: already registered with another key, {known}")
            if (other := registry.find(keyid)) is not None and other.name != name:
                raise StateError(f"{public_key_file}: this key already belongs to another issuer")
            write_atomically(_issuer_path(ws, keyid), given.pem.encode())
        entry = registry.find(keyid) or _new_entry(name, given or _load_issuer_key(ws, keyid), str(public_key_file), utc_now())
        if entry.revoked_at is not None:
            raise StateError(f"issuer {name}: this key was revoked; register another")
        changed = _renew(entry, given) if ISSUER_ROLE in entry.roles else replace(entry, roles=(*entry.roles, ISSUER_ROLE))
        if changed != registry.find(keyid):
            _save_registry(ws, registry.replace(changed))
    return IssuerKey(issuer=name, keyid=keyid, path=_issuer_path(ws, keyid))


def add_key(
    ws: Workspace, name: str, public_key_file: Path, roles: Sequence[str], *, valid_from: datetime | None, valid_until: datetime | None
) -> KeyEntry:
    """Register a key with its roles; the same key again replaces roles and interval. A certificate's own interval bounds the one given.

    Without `valid_from` a new key counts from now on, a known one from when it did.

    Raises:
        InvalidInputError: the name, a role, the interval or the key file is not usable.
        StateError: the key is another's or the workspace's own, or was revoked.
    """
    _check_name(name)
    if not roles or RECORDER_ROLE in roles or not all(role.isidentifier() and role.isascii() and len(role) <= 64 for role in roles):
        raise InvalidInputError("role: must be a word of letters, digits and underscores, and not recorder, the workspace's own")
    key = parse_key_file(_read_key_file(public_key_file), str(public_key_file))
    if set(roles) != {ISSUER_ROLE}:
        parse_public_key(key.pem.encode(), f"{public_key_file}: a key in another role than {ISSUER_ROLE} signs with Ed25519")
    valid_until = min((end for end in (valid_until, key.valid_until) if end is not None), default=None)
    (ws.keys / "issuers").mkdir(parents=True, exist_ok=True)
    with exclusive_lock(ws.keys / ".lock"):
        registry = load_registry(ws)
        known = registry.find(key.keyid)
        _refuse_own(registry, key.keyid, str(public_key_file))
        if known is not None and known.name != name:
            raise StateError(f"{public_key_file}: this key already belongs to another name")
        if known is not None and known.revoked_at is not None:
            raise StateError(f"{public_key_file}: this key was revoked; register another")
        if ISSUER_ROLE in roles and _issuer_index(registry, utc_now()).get(name) not in (None, key.keyid):
            raise StateError(f"issuer {name}: already registered with another key; revoke that first")
        start = valid_from or (utc_now() if known is None else known.valid_from)
        start = max((time for time in (start, key.valid_from) if time is not None), default=None)
        if None not in (start, valid_until) and valid_until <= start:  # type: ignore[operator]  # neither is None
            raise InvalidInputError("valid until: must be later than valid from")
        before = () if known is None else (*known.roles, *known.past_roles)
        entry = KeyEntry(
            keyid=key.keyid,
            name=name,
            roles=tuple(sorted(set(roles))),
            past_roles=tuple(sorted(set(before) - set(roles))),
            public_key=key.pem,
            valid_from=start,
            valid_until=valid_until,
        )
        write_atomically(_issuer_path(ws, key.keyid), key.pem.encode())
        _save_registry(ws, registry.replace(entry))
    return entry


def revoke_key(ws: Workspace, keyid: str, *, since: datetime, reason: str) -> KeyEntry:
    """Let a key count no longer from `since` on; a revocation can be moved back in time, never forward.

    Raises:
        InvalidInputError: no such key, or the reason is empty.
        StateError: it's the workspace's own key, or was revoked since an earlier time.
    """
    if not reason.strip():
        raise InvalidInputError("reason: must not be empty")
    with exclusive_lock(ws.keys / ".lock"):
        registry = load_registry(ws)
        found = [entry for entry in registry.entries if len(keyid) >= 8 and entry.keyid.startswith(keyid)]
        if len(found) != 1:
            raise InvalidInputError(f"{keyid:.80}: names {'no key' if not found else 'several keys'}; see: lethe keys list")
        if _is_own(found[0]):
            raise StateError("the workspace's own key signs the registry and can't be revoked in it")
        if found[0].revoked_at is not None and found[0].revoked_at <= since:
            raise StateError(f"{keyid}: was revoked since {found[0].revoked_at.isoformat()} already")
        entry = replace(found[0], revoked_at=since, revocation_reason=reason)
        _save_registry(ws, registry.replace(entry))
    return entry


def load_registry(ws: Workspace) -> KeyRegistry:
    """The key registry; an older workspace's index of issuers is read as one, and one without both has the workspace's key alone.

    Raises:
        StateError: it's damaged, or holds another key than its file says.
    """
    path = ws.keys / "registry.json"
    if not path.is_file():
        return _take_over_index(ws)
    try:
        return verify_registry(path.read_bytes(), [workspace_key(ws)])
    except (VerificationError, OSError) as error:
        raise StateError(f"{path}: the registry of keys is damaged: {error}; restore it from a backup") from error


def sign_file(ws: Workspace, path: Path, issuer: str) -> str:
    """Write `<path>.sig` with the issuer's key and return the keyid.

    Raises:
        InvalidInputError: there is no such file, it can't be read, or its signature can't be written.
        RequestRefusedError: it is too large to be a request.
        StateError: the issuer isn't registered, or keeps the private key elsewhere.
    """
    content = _read_signable(path)
    keyid = _issuer_index(load_registry(ws), utc_now()).get(issuer)
    if keyid is None:
        raise StateError(f"issuer {issuer}: not registered; do so with: lethe keys add-issuer {issuer}")
    private_path = ws.keys / "issuers" / f"{keyid}.private.pem"
    if not private_path.exists():
        raise StateError(f"issuer {issuer}: the private key is not kept in this workspace; sign where it is")
    write_output(path.with_name(f"{path.name}.sig"), base64.b64encode(_load_private_key(private_path).sign(content)) + b"\n")
    return keyid


def verify_file(ws: Workspace, content: bytes, signature_text: bytes | None, at: datetime | None = None) -> VerifiedIssuer:
    """Who signed `content`.

    Args:
        ws: whose registry tells the issuers.
        content: the file's bytes.
        signature_text: what its `.sig` file holds, None if there is none.
        at: the trusted time of the signature: when the file was received; None means now.

    Raises:
        RequestRefusedError: `unsigned`, `bad_signature_encoding`, `unknown_issuer` or `key_not_valid`.
    """
    signer = verify_detached(Parcel(content=content, file_name="request", signature=signature_text), sender_keys(ws, at or utc_now()))
    return VerifiedIssuer(issuer=signer.issuer, keyid=signer.keyid)


def sender_keys(ws: Workspace, at: datetime, recorded: Mapping[str, datetime] | None = None) -> list[SenderKey]:
    """The registered issuers' public keys as they count at a time; those that don't are among them: a refusal should say why.

    Args:
        ws: whose registry tells them.
        at: the time.
        recorded: by keyid, of those whose signature over the same bytes was recorded before, when that was.

    Raises:
        StateError: the registry or a key is damaged.
    """
    keys = []
    for entry in load_registry(ws).with_role(ISSUER_ROLE):
        if _load_issuer_key(ws, entry.keyid).keyid != entry.keyid:
            raise StateError(f"{_issuer_path(ws, entry.keyid)}: holds another key than the one that was registered")
        keys.append(entry.sender_key((recorded or {}).get(entry.keyid, at)))
    return keys


def check_issuer(requests: Sequence[DeletionRequest], verified: VerifiedIssuer) -> None:
    """The issuer that a request states must be the one who signed it.

    Raises:
        RequestRefusedError: `issuer_mismatch`.
    """
    for request in requests:
        if request.issuer != verified.issuer:
            raise RequestRefusedError(
                f"request {request.request_id}: issuer: states another issuer than the one who signed", reason="issuer_mismatch"
            )


def load_record_keys(keys_folder: Path) -> list[Key]:
    """The public keys in a workspace's key folder whose signature makes a record: not the issuers', which lie one folder down.

    Raises:
        StateError: one is unreadable.
    """
    return [_load_public_key(path) for path in sorted(keys_folder.glob("*.pem")) if not path.name.endswith(".private.pem")]


def load_trusted_keys(place: Path) -> list[Key]:
    """The public key in a PEM file, or those of a folder, that somebody chose to trust.

    Raises:
        InvalidInputError: there is none.
    """
    if place.is_dir():
        if keys := load_record_keys(place):
            return keys
        raise InvalidInputError(f"{place}: holds no public key (*.pem)")
    return [parse_public_key(_read_key_file(place), str(place))]


def _is_own(entry: KeyEntry) -> bool:
    """Whether it's the workspace's own key; a release that let it lose its role left it among the past ones."""
    return RECORDER_ROLE in (*entry.roles, *entry.past_roles)


def _refuse_own(registry: KeyRegistry, keyid: str, source: str) -> None:
    """The workspace's own key signs records and the registry; it has no other role, and always that one."""
    if (entry := registry.find(keyid)) is not None and _is_own(entry):
        raise StateError(f"{source}: this is the workspace's own key; it can't have another role")


def _new_entry(name: str, key: KeyFile, source: str, now: datetime) -> KeyEntry:
    entry = KeyEntry(keyid=key.keyid, name=name, roles=(), public_key=key.pem, valid_from=key.valid_from, valid_until=key.valid_until)
    if key.valid_until is not None and now >= key.valid_until:
        raise InvalidInputError(f"{source}: the certificate {entry.why_invalid(now)}")
    return entry


def _renew(entry: KeyEntry, key: KeyFile | None) -> KeyEntry:
    """The entry, until a newer certificate of the same key ends."""
    if key is None or key.valid_until is None or entry.valid_until is None or key.valid_until <= entry.valid_until:
        return entry
    return replace(entry, valid_until=key.valid_until)


def _load_issuer_key(ws: Workspace, keyid: str) -> KeyFile:
    path = _issuer_path(ws, keyid)
    try:
        return parse_key_file(path.read_bytes(), str(path))
    except (OSError, InvalidInputError) as error:
        raise StateError(f"{path}: the public key is missing or unreadable") from error


def _issuer_index(registry: KeyRegistry, at: datetime) -> dict[str, str]:
    """Keyid by issuer's name, of the keys that count at that time."""
    return {entry.name: entry.keyid for entry in registry.with_role(ISSUER_ROLE) if entry.why_invalid(at) is None}


def _take_over_index(ws: Workspace) -> KeyRegistry:
    """A registry of the workspace's own key and, without bounds in time, of the issuers in an older workspace's index."""
    path = ws.keys / "issuers.json"
    own = workspace_key(ws)
    pem = (ws.keys / "workspace.pem").read_text("ascii")
    entries = [KeyEntry(keyid=own.keyid, name="workspace", roles=(RECORDER_ROLE,), public_key=pem)]
    try:
        index: dict[str, str] = json.loads(path.read_bytes()) if path.is_file() else {}
        for name, keyid in index.items():
            issuer_pem = _issuer_path(ws, keyid).read_text("ascii")
            entries.append(KeyEntry(keyid=keyid, name=name, roles=(ISSUER_ROLE,), public_key=issuer_pem))
    except (OSError, ValueError, AttributeError) as error:
        raise StateError(f"{path}: the registry of issuers is damaged; restore it from a backup") from error
    return KeyRegistry(entries=tuple(sorted(entries, key=lambda entry: entry.keyid)))


def _save_registry(ws: Workspace, registry: KeyRegistry) -> None:
    write_atomically(ws.keys / "registry.json", sign_registry(registry, workspace_signer(ws)), mode=0o600)
    (ws.keys / "issuers.json").unlink(missing_ok=True)


def _check_name(name: str) -> None:
    if not (name and name.isprintable() and name == name.strip() and len(name) <= 256):
        raise InvalidInputError("issuer name: must be 1 to 256 printable characters without spaces around them")


def _issuer_path(ws: Workspace, keyid: str) -> Path:
    return ws.keys / "issuers" / f"{keyid}.pem"


def _generate_issuer_key(ws: Workspace) -> str:
    private_key = Ed25519PrivateKey.generate()
    keyid = build_public_key(private_key.public_key()).keyid
    _write_private_key(ws.keys / "issuers" / f"{keyid}.private.pem", private_key)
    _write_public_key(_issuer_path(ws, keyid), private_key)
    return keyid


def _read_signable(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such file")
        with path.open("rb") as file:
            limit = size_limit(file.read(4))
            check_size(path.stat().st_size, str(path), limit)
            file.seek(0)
            return file.read(limit)
    except OSError as error:  # is_file raises it for a name that is too long
        raise InvalidInputError(f"{str(path)[-80:]}: can't be read: {error.strerror}") from error


def _read_key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(10_000)  # ten times what a public key takes
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error


def _write_private_key(path: Path, private_key: Ed25519PrivateKey) -> None:
    write_atomically(path, private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def _write_public_key(path: Path, private_key: Ed25519PrivateKey) -> None:
    write_atomically(path, private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _load_private_key(path: Path) -> Ed25519PrivateKey:
    try:
        private_key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise StateError(f"{path}: the private key is missing or unreadable") from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise StateError(f"{path}: not an Ed25519 key")
    return private_key


def _load_public_key(path: Path) -> Key:
    try:
        return parse_public_key(path.read_bytes(), str(path))
    except (OSError, InvalidInputError) as error:
        raise StateError(f"{path}: the public key is missing or unreadable") from error
