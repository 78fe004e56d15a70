"""The keys of a workspace: its own signing key, the owner-key secret, and the registry of who may sign requests.

Under `.lethe/keys/`: `workspace.private.pem` signs audit records and `workspace.pem` checks them; `owner-secret` keys the hash of owner
ids; `issuers.json` maps issuer names to keyids, and `issuers/<keyid>.pem` holds their public keys. Names may be persons' names, so they
stand in the index alone and no file is called after one. Issuers' keys lie one folder down since they sign requests, never records.

A keyid is the SHA-256 of the key's DER SubjectPublicKeyInfo. A signature file holds one line: the base64 of the raw Ed25519 signature
over the request file's bytes. It states no key; whose it is, is found by trying every registered key.
"""

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import canonical_json
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.evidence import build_public_key, parse_public_key
from cdm_core.intake.detection import size_limit
from cdm_core.intake.reception import Parcel, verify_detached
from cdm_core.intake.senders import SenderKey
from cdm_core.requests import DeletionRequest, check_size
from tasks.files import write_atomically
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
    """Register who may sign requests: with their public key, or with a new pair made here. The same again changes nothing.

    Raises:
        InvalidInputError: the name or the key file is not usable.
        StateError: the name has another key, or the key another name: a signature must tell exactly one issuer.
    """
    if not (name and name.isprintable() and name == name.strip() and len(name) <= 256):
        raise InvalidInputError("issuer name: must be 1 to 256 printable characters without spaces around them")
    given_pem = None if public_key_file is None else _read_key_file(public_key_file)
    (ws.keys / "issuers").mkdir(parents=True, exist_ok=True)
    with exclusive_lock(ws.keys / ".lock"):
        keyid_by_name = _load_index(ws)
        known = keyid_by_name.get(name)
        if given_pem is None:
            keyid = known or _generate_issuer_key(ws)
        else:
            keyid = parse_public_key(given_pem, str(public_key_file)).keyid
            if known not in (None, keyid):
                raise StateError(f"issuer {name}: already registered with another key, {known}")
            if any(other == keyid for other_name, other in keyid_by_name.items() if other_name != name):
                raise StateError(f"{public_key_file}: this key already belongs to another issuer")
            write_atomically(_issuer_path(ws, keyid), given_pem)
        write_atomically(ws.keys / "issuers.json", canonical_json({**keyid_by_name, name: keyid}), mode=0o600)
    return IssuerKey(issuer=name, keyid=keyid, path=_issuer_path(ws, keyid))


def sign_file(ws: Workspace, path: Path, issuer: str) -> str:
    """Write `<path>.sig` with the issuer's key and return the keyid.

    Raises:
        InvalidInputError: there is no such file.
        RequestRefusedError: it is too large to be a request.
        StateError: the issuer isn't registered, or keeps the private key elsewhere.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path}: no such file")
    with path.open("rb") as file:
        check_size(path.stat().st_size, str(path), size_limit(file.read(4)))
    keyid = _load_index(ws).get(issuer)
    if keyid is None:
        raise StateError(f"issuer {issuer}: not registered; do so with: lethe keys add-issuer {issuer}")
    private_path = ws.keys / "issuers" / f"{keyid}.private.pem"
    if not private_path.exists():
        raise StateError(f"issuer {issuer}: the private key is not kept in this workspace; sign where it is")
    signature = _load_private_key(private_path).sign(path.read_bytes())
    write_atomically(path.with_name(f"{path.name}.sig"), base64.b64encode(signature) + b"\n")
    return keyid


def verify_file(ws: Workspace, content: bytes, signature_text: bytes | None) -> VerifiedIssuer:
    """Who signed `content`; `signature_text` is what its `.sig` file holds, None if there is none.

    Raises:
        RequestRefusedError: `unsigned`, `bad_signature_encoding` or `unknown_issuer`.
    """
    signer = verify_detached(Parcel(content=content, file_name="request", signature=signature_text), sender_keys(ws))
    return VerifiedIssuer(issuer=signer.issuer, keyid=signer.keyid)


def sender_keys(ws: Workspace) -> list[SenderKey]:
    """The registered issuers' public keys.

    Raises:
        StateError: the registry or a key is damaged.
    """
    keys = []
    for issuer, key in _load_issuers(ws):
        public_key = load_pem_public_key(_issuer_path(ws, key.keyid).read_bytes())
        assert isinstance(public_key, Ed25519PublicKey), "read as such a moment ago"
        keys.append(SenderKey(issuer=issuer, keyid=key.keyid, public_key=public_key))
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


def _load_issuers(ws: Workspace) -> Iterator[tuple[str, Key]]:
    for issuer, keyid in sorted(_load_index(ws).items()):
        path = _issuer_path(ws, keyid)
        key = _load_public_key(path)
        if key.keyid != keyid:
            raise StateError(f"{path}: holds another key than the one that was registered")
        yield issuer, key


def _load_index(ws: Workspace) -> dict[str, str]:
    path = ws.keys / "issuers.json"
    try:
        index: dict[str, str] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StateError(f"{path}: the registry of issuers is damaged; restore it from a backup") from error
    return index


def _issuer_path(ws: Workspace, keyid: str) -> Path:
    return ws.keys / "issuers" / f"{keyid}.pem"


def _generate_issuer_key(ws: Workspace) -> str:
    private_key = Ed25519PrivateKey.generate()
    keyid = build_public_key(private_key.public_key()).keyid
    _write_private_key(ws.keys / "issuers" / f"{keyid}.private.pem", private_key)
    _write_public_key(_issuer_path(ws, keyid), private_key)
    return keyid


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
