"""C2SP signed notes, the log checkpoints written as such, and offline proofs that a log holds an entry.

1. A note is a text, an empty line, and lines `— name base64(key id ‖ signature)`; the signature is Ed25519 over the text with its last
   newline. The key id is SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)[:4], so name and key together choose what is checked.
2. Signatures of unknown keys are ignored, one of a known key that doesn't hold refuses the note, and without one that holds it is refused.
3. A checkpoint's text is origin, size and root, one a line; extension lines are refused, since nobody could audit them. The key's name is
   the origin: a key signs for one log by one name.
4. A proof (c2sp.org/tlog-proof@v1) is index, hashes and checkpoint. What one spells in two ways, such as loose base64, is refused.

References: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-proof
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.errors import VerificationError
from cdm_core.evidence.merkle import HASH_BYTES, hash_leaf, verify_inclusion

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
MAX_SIGNATURES = 100

_KEY_ID_BYTES = 4
_ED25519 = b"\x01"
_MARK = "— "
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNote:
    """A text that one of the known keys signed, and those keys' keyids."""

    text: str
    keyids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's tree at some size."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.origin):
            raise ValueError(f"{self.origin!r} can't be a log's origin")
        if self.size < 0 or len(self.root) != HASH_BYTES:
            raise ValueError("a checkpoint has a size and a root of 32 bytes")

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """That a log holds an entry: its index, the inclusion proof, and the signed checkpoint as it was issued."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def to_bytes(self) -> bytes:
        """The proof's one spelling."""
        lines = [PROOF_HEADER, f"index {self.index}", *(_encode(value) for value in self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint


def compute_key_id(name: str, key: Key) -> bytes:
    """The four bytes that name a key in a signature line; `key` is an Ed25519 key."""
    return hashlib.sha256(f"{name}\n".encode() + _ED25519 + _public_bytes(key)).digest()[:_KEY_ID_BYTES]


def sign_note(text: str, name: str, signer: Signer) -> bytes:
    """The note with one signature.

    Raises:
        ValueError: the text doesn't end its last line or holds control characters, or the name is empty or has spaces or a plus.
    """
    if not _is_text(text) or not _is_name(name):
        raise ValueError("a note needs a text of whole lines and a key name without spaces or plus")
    signature = bytes.fromhex(signer.sign(text.encode()).signature)
    return f"{text}\n{_MARK}{name} {_encode(compute_key_id(name, signer.public_key) + signature)}\n".encode()


def verify_note(content: bytes, name: str, keys: Sequence[Key]) -> VerifiedNote:
    """Check a note against the keys that are known under `name`.

    Raises:
        VerificationError: malformed, signed by none of the keys, or a known key's signature doesn't hold.
    """
    text, signatures = _split_note(content)
    known = {compute_key_id(name, key): key for key in keys}
    keyids: list[str] = []
    for signer_name, key_id, signature in signatures:
        key = known.get(key_id) if signer_name == name else None
        if key is None:
            continue
        try:
            key.verify_signature(Signature(key.keyid, signature.hex()), text.encode())
        except UnverifiedSignatureError as error:
            raise VerificationError("signed note: a known key's signature doesn't hold") from error
        keyids.append(key.keyid)
    if not keyids:
        raise VerificationError("signed note: signed by none of the trusted keys")
    return VerifiedNote(text=text, keyids=tuple(keyids))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The signed note of a checkpoint; the key's name is the origin."""
    return sign_note(checkpoint.text, checkpoint.origin, signer)


def parse_checkpoint(text: str) -> Checkpoint:
    """A checkpoint from its text.

    Raises:
        VerificationError: not origin, size and root, in their one spelling.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not _NUMBER.fullmatch(lines[1]) or not _is_name(lines[0]):
        raise VerificationError("checkpoint: must be the lines origin, size and root")
    root = _decode(lines[2], "checkpoint: the root")
    if len(root) != HASH_BYTES:
        raise VerificationError("checkpoint: the root must have 32 bytes")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def verify_checkpoint(content: bytes, keys: Sequence[Key]) -> Checkpoint:
    """Check a signed checkpoint; each key is known under the checkpoint's own origin.

    Raises:
        VerificationError: malformed, or signed by none of the keys.
    """
    checkpoint = parse_checkpoint(_split_note(content)[0])
    verify_note(content, checkpoint.origin, keys)
    return checkpoint


def parse_log_proof(content: bytes) -> LogProof:
    """A proof from its bytes; extra data is refused, since nothing authenticates it.

    Raises:
        VerificationError: malformed, or not in its one spelling.
    """
    head, separator, checkpoint = content.partition(b"\n\n")
    try:
        lines = head.decode().split("\n")
    except UnicodeDecodeError as error:
        raise VerificationError("log proof: not UTF-8") from error
    if not separator or lines[0] != PROOF_HEADER:
        raise VerificationError(f"log proof: doesn't begin with {PROOF_HEADER}")
    label, _, index = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
    if label != "index" or not _NUMBER.fullmatch(index):
        raise VerificationError("log proof: the second line must be the index")
    hashes = tuple(_decode(line, "log proof: a hash") for line in lines[2:])
    if any(len(value) != HASH_BYTES for value in hashes):
        raise VerificationError("log proof: a hash must have 32 bytes")
    return LogProof(index=int(index), hashes=hashes, checkpoint=checkpoint)


def verify_log_proof(proof: LogProof, leaf: bytes, keys: Sequence[Key]) -> Checkpoint:
    """Check that the log whose checkpoint one of the keys signed holds `leaf`.

    Raises:
        VerificationError: the checkpoint or the inclusion isn't shown.
    """
    checkpoint = verify_checkpoint(proof.checkpoint, keys)
    verify_inclusion(hash_leaf(leaf), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint


def _split_note(content: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text, and each signature line's name, key id and signature."""
    try:
        note = content.decode()
    except UnicodeDecodeError as error:
        raise VerificationError("signed note: not UTF-8") from error
    body, separator, block = note.rpartition("\n\n")
    text, lines = f"{body}\n", block.split("\n")
    if not separator or not _is_text(text) or lines[-1] or len(lines) < 2:
        raise VerificationError("signed note: must be a text, an empty line and signature lines")
    if len(lines) - 1 > MAX_SIGNATURES:
        raise VerificationError(f"signed note: more than {MAX_SIGNATURES} signatures")
    return text, [_split_signature(line) for line in lines[:-1]]


def _split_signature(line: str) -> tuple[str, bytes, bytes]:
    name, separator, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not separator or not _is_name(name):
        raise VerificationError("signed note: a signature line must be a dash, a name and base64")
    signature = _decode(encoded, "signed note: a signature")
    if len(signature) <= _KEY_ID_BYTES:
        raise VerificationError("signed note: a signature is too short")
    return name, signature[:_KEY_ID_BYTES], signature[_KEY_ID_BYTES:]


def _is_text(text: str) -> bool:
    return text.endswith("\n") and not any(character < " " and character != "\n" for character in text)


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() or character < " " for character in name)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decode(text: str, what: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise VerificationError(f"{what} is not base64") from error
    if _encode(value) != text:
        raise VerificationError(f"{what} is not base64 in its one spelling")
    return value


def _public_bytes(key: Key) -> bytes:
    return bytes.fromhex(key.keyval["public"])
