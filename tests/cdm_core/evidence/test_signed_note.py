"""Signed notes, checkpoints and log proofs: Go's and C2SP's published examples first."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, SSlibKey

from cdm_core.errors import VerificationError
from cdm_core.evidence.envelopes import build_public_key
from cdm_core.evidence.merkle import build_inclusion_proof, compute_root, hash_leaf
from cdm_core.evidence.signed_note import (
    Checkpoint,
    LogProof,
    compute_key_id,
    parse_checkpoint,
    parse_log_proof,
    sign_checkpoint,
    sign_note,
    verify_checkpoint,
    verify_log_proof,
    verify_note,
)

# golang.org/x/mod/sumdb/note, note_test.go
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_SIGNATURE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH_SIGNATURE = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
PETER_NOTE = f"{TEXT}\n{PETER_SIGNATURE}".encode()

# c2sp.org/tlog-checkpoint and c2sp.org/signed-note: published without their public keys.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def read_verifier(encoded: str) -> SSlibKey:
    return build_public_key(Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:]))


PETER = read_verifier("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
ENOCH = read_verifier("ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop")


def make_signer(seed: bytes) -> CryptoSigner:
    private_key = Ed25519PrivateKey.from_private_bytes(seed)
    return CryptoSigner(private_key, build_public_key(private_key.public_key()))


SIGNER, STRANGER = make_signer(bytes([1]) * 32), make_signer(bytes([2]) * 32)
LEAVES = [bytes([number]) * 32 for number in range(5)]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]
CHECKPOINT = Checkpoint(origin="example.com/log", size=5, root=compute_root(HASHES))
SIGNED = sign_checkpoint(CHECKPOINT, SIGNER)
ZEROS = "A" * 43 + "="
PROOF = LogProof(index=3, hashes=tuple(build_inclusion_proof(HASHES, 3)), checkpoint=SIGNED)


def test_gos_keys_and_signatures() -> None:
    assert compute_key_id("PeterNeumann", PETER).hex() == "c74f20a3"
    assert compute_key_id("EnochRoot", ENOCH).hex() == "af0cfe78"
    verified = verify_note(PETER_NOTE, "PeterNeumann", [ENOCH, PETER])
    assert (verified.text, verified.keyids) == (TEXT, (PETER.keyid,))
    both = f"{TEXT}\n{PETER_SIGNATURE}{ENOCH_SIGNATURE}".encode()
    assert verify_note(both, "PeterNeumann", [PETER]).keyids == (PETER.keyid,)
    assert verify_note(both, "EnochRoot", [ENOCH]).keyids == (ENOCH.keyid,)


def test_gos_private_key_signs_the_same_bytes() -> None:
    seed = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    assert sign_note(TEXT, "PeterNeumann", make_signer(seed)) == PETER_NOTE


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER_SIGNATURE[:-1]}",
        f"\x01{TEXT}\n{PETER_SIGNATURE}",
        f"{TEXT}\n— Bad Name {PETER_SIGNATURE.split()[2]}",
        f"{TEXT}\n{PETER_SIGNATURE}Unexpected line.\n",
        f"{TEXT}\n" + PETER_SIGNATURE * 101,
        f"{TEXT}\n{PETER_SIGNATURE[:60]}ABCD{PETER_SIGNATURE[60:]}",
    ],
)
def test_gos_malformed_notes_are_refused(note: str) -> None:
    with pytest.raises(VerificationError, match="signed note: "):
        verify_note(note.encode(), "PeterNeumann", [PETER])
    with pytest.raises(VerificationError, match="signed note: not UTF-8"):
        verify_note(b"\xff" + PETER_NOTE, "PeterNeumann", [PETER])


def test_keys_under_another_name_are_unknown() -> None:
    for name, keys in (("PeterNeuman", [PETER]), ("PeterNeumann", [ENOCH]), ("PeterNeumann", [])):
        with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
            verify_note(PETER_NOTE, name, keys)


def test_c2sps_checkpoint() -> None:
    text = C2SP_CHECKPOINT.rpartition("\n\n")[0] + "\n"
    checkpoint = parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size, len(checkpoint.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert checkpoint.text == text
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_checkpoint(C2SP_CHECKPOINT.encode(), [PETER])


def test_checkpoint_round_trip() -> None:
    assert verify_checkpoint(SIGNED, [STRANGER.public_key, SIGNER.public_key]) == CHECKPOINT
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_checkpoint(SIGNED, [STRANGER.public_key])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        f"a\n01\n{ZEROS}\n",
        f"a\n-1\n{ZEROS}\n",
        "a\n1\nAAAA\n",
        "a\n1\n*\n",
        f"a+b\n1\n{ZEROS}\n",
        f"a\n1\n{ZEROS}\nextension\n",
        f"a\n1\n{ZEROS[:-2]}B=\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(VerificationError, match="checkpoint: "):
        parse_checkpoint(text)


def test_what_cannot_be_signed() -> None:
    for text, name in (("abc", "log"), ("a\tb\n", "log"), ("abc\n", "a b"), ("abc\n", ""), ("abc\n", "a+b")):
        with pytest.raises(ValueError, match="a note needs a text of whole lines"):
            sign_note(text, name, SIGNER)
    with pytest.raises(ValueError, match="can't be a log's origin"):
        Checkpoint(origin="", size=0, root=bytes(32))
    with pytest.raises(ValueError, match="a root of 32 bytes"):
        Checkpoint(origin="log", size=0, root=b"")


def test_log_proof_round_trip() -> None:
    content = PROOF.to_bytes()
    assert content.decode().split("\n")[:2] == ["c2sp.org/tlog-proof@v1", "index 3"]
    assert parse_log_proof(content) == PROOF
    assert verify_log_proof(PROOF, LEAVES[3], [SIGNER.public_key]) == CHECKPOINT
    with pytest.raises(VerificationError, match="inclusion proof: "):
        verify_log_proof(PROOF, LEAVES[2], [SIGNER.public_key])


def test_the_layout_is_that_of_the_published_examples() -> None:
    """The cases of transparency-dev/formats: with hashes, and without."""
    hashes = (hash_leaf(b"1"), hash_leaf(b"2"))
    first, second = (base64.b64encode(value).decode() for value in hashes)
    proof = LogProof(index=5, hashes=hashes, checkpoint=b"test checkpoint\n")
    assert proof.to_bytes().decode() == f"c2sp.org/tlog-proof@v1\nindex 5\n{first}\n{second}\n\ntest checkpoint\n"
    assert LogProof(index=0, hashes=(), checkpoint=b"checkpoint\n").to_bytes() == b"c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"wrong-header\nindex 0\n\ncheckpoint\n", "doesn't begin with"),
        (b"c2sp.org/tlog-proof@v1\n\ncheckpoint\n", "must be the index"),
        (b"c2sp.org/tlog-proof@v1\nindex 00\n\ncheckpoint\n", "must be the index"),
        (b"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 0\n\ncheckpoint\n", "must be the index"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\ncheckpoint\n", "must have 32 bytes"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\n*\n\ncheckpoint\n", "not base64"),
        (b"c2sp.org/tlog-proof@v1\nindex 0\n", "doesn't begin with"),
        (b"\xff\n\n", "not UTF-8"),
    ],
)
def test_malformed_log_proofs_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=f"log proof: .*{message}"):
        parse_log_proof(content)


@given(position=st.integers(0, len(PROOF.to_bytes()) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_refused(position: int, byte: int) -> None:
    content = PROOF.to_bytes()
    tampered = content[:position] + bytes([byte]) + content[position + 1 :]
    if tampered == content:
        return
    with pytest.raises(VerificationError):
        verify_log_proof(parse_log_proof(tampered), LEAVES[3], [SIGNER.public_key])
