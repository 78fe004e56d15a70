"""Signed records: round trip, tamper, reorder, replay, and keys that don't fit."""

import base64
import hashlib
import json
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, Key, Signature

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.evidence import envelopes
from cdm_core.evidence.envelopes import (
    PAYLOAD_TYPE,
    UNLEARNING_PREDICATE,
    build_public_key,
    build_statement,
    parse_public_key,
    sign_envelope,
    verify_chain,
    verify_envelope,
)


def make_signer(seed: int) -> CryptoSigner:
    private_key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return CryptoSigner(private_key, build_public_key(private_key.public_key()))


SIGNER, STRANGER = make_signer(1), make_signer(2)
KEYS: list[Key] = [STRANGER.public_key, SIGNER.public_key]
SUBJECTS = {"composed-model@2": sha256_digest(b"model"), "adapter": sha256_digest(b"adapter")}


def make_record(previous: Digest | None = None, signer: CryptoSigner = SIGNER, **predicate: Json) -> bytes:
    return sign_envelope(build_statement(SUBJECTS, UNLEARNING_PREDICATE, {"previous_record": previous, **predicate}), signer)


def make_chain(num_records: int) -> list[bytes]:
    records: list[bytes] = []
    for number in range(num_records):
        records.append(make_record(sha256_digest(records[-1]) if records else None, number=number))
    return records


RECORD = make_record(shards=[1, 2], note="Zoë")
CHAIN = make_chain(4)


def test_round_trip() -> None:
    verified = verify_envelope(RECORD, KEYS)
    assert verified.keyid == SIGNER.public_key.keyid
    assert verified.predicate == {"previous_record": None, "shards": [1, 2], "note": "Zoë"}
    assert verified.statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "adapter", "digest": {"sha256": sha256_digest(b"adapter")}},
            {"name": "composed-model@2", "digest": {"sha256": sha256_digest(b"model")}},
        ],
        "predicateType": "https://lethe.dev/attestation/unlearning/v1",
        "predicate": verified.predicate,
    }
    assert json.loads(verified.payload) == verified.statement


def test_the_signature_is_over_the_encoding_of_the_specification() -> None:
    envelope = json.loads(RECORD)
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).public_key()
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


def test_signing_is_reproducible() -> None:
    assert make_record(shards=[1, 2], note="Zoë") == RECORD


def test_what_held_is_remembered_for_the_same_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    record, checked = make_record(note="seen twice"), list[bytes]()
    find_signature = envelopes._find_signature

    def count(payload: bytes, signature: str, keys: Sequence[Key]) -> Signature:
        checked.append(payload)
        return find_signature(payload, signature, keys)

    monkeypatch.setattr(envelopes, "_find_signature", count)
    assert verify_envelope(record, KEYS) == verify_envelope(bytes(bytearray(record)), list(KEYS))
    assert len(checked) == 1
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_envelope(record, [STRANGER.public_key])
    assert len(checked) == 2


@given(position=st.integers(0, len(RECORD) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_refused(position: int, byte: int) -> None:
    tampered = RECORD[:position] + bytes([byte]) + RECORD[position + 1 :]
    if tampered == RECORD:
        return
    with pytest.raises(VerificationError):
        verify_envelope(tampered, KEYS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(VerificationError, match="not a DSSE envelope"):
        verify_envelope(content, KEYS)


def test_the_named_key_decides_nothing() -> None:
    forged = json.loads(make_record(signer=STRANGER))
    forged["signatures"][0]["keyid"] = SIGNER.public_key.keyid
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_envelope(encode(forged), [SIGNER.public_key])
    # A trusted key's record that names another trusted key: found by trying, refused as not the bytes that were written.
    renamed = json.loads(RECORD)
    renamed["signatures"][0]["keyid"] = STRANGER.public_key.keyid
    with pytest.raises(VerificationError, match="the signature holds, but the envelope around it is not the one that was written"):
        verify_envelope(encode(renamed), KEYS)


def test_another_spelling_is_refused() -> None:
    with pytest.raises(VerificationError, match="the signature holds, but"):
        verify_envelope(RECORD + b"\n", KEYS)
    with pytest.raises(VerificationError, match="the signature holds, but"):
        verify_envelope(json.dumps(json.loads(RECORD), indent=1).encode(), KEYS)


def test_a_second_signature_is_refused() -> None:
    doubled = json.loads(RECORD)
    doubled["signatures"].append(json.loads(make_record(signer=STRANGER))["signatures"][0])
    with pytest.raises(VerificationError, match="not a DSSE envelope: signatures: List should have at most 1 item"):
        verify_envelope(encode(doubled), KEYS)


@pytest.mark.parametrize("keys", [[], [STRANGER.public_key]])
def test_no_key_fits(keys: Sequence[Key]) -> None:
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_envelope(RECORD, keys)


def test_loose_base64_is_refused() -> None:
    loose = json.loads(RECORD)
    loose["payload"] = "*" + loose["payload"]
    with pytest.raises(VerificationError, match="payload or signature is not base64"):
        verify_envelope(encode(loose), KEYS)


def test_another_payload_type_is_refused() -> None:
    envelope = Envelope(b"{}", "text/plain", {})
    envelope.sign(SIGNER)
    with pytest.raises(VerificationError, match="not a DSSE envelope: payloadType: "):
        verify_envelope(encode(envelope.to_dict()), KEYS)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"_type":"x"}', build_statement(SUBJECTS, "", {})])
def test_a_signed_payload_that_is_no_statement_is_refused(payload: bytes) -> None:
    with pytest.raises(VerificationError, match="signed, but not an in-toto Statement: "):
        verify_envelope(sign_envelope(payload, SIGNER), KEYS)


def test_payload_type_is_in_totos() -> None:
    assert json.loads(RECORD)["payloadType"] == PAYLOAD_TYPE


def test_a_statement_needs_a_subject() -> None:
    with pytest.raises(ValueError, match="at least one subject"):
        build_statement({}, UNLEARNING_PREDICATE, {})


def test_chain_round_trip() -> None:
    assert [verified.predicate["number"] for verified in verify_chain(CHAIN, KEYS)] == [0, 1, 2, 3]
    assert len(verify_chain(CHAIN[2:], KEYS, previous=sha256_digest(CHAIN[1]))) == 2
    assert verify_chain([], KEYS) == []


@pytest.mark.parametrize(
    ("records", "broken"),
    [
        (CHAIN[1:], 1),
        ([CHAIN[0], CHAIN[2], CHAIN[3]], 2),
        ([CHAIN[0], CHAIN[2], CHAIN[1], CHAIN[3]], 2),
        ([CHAIN[0], CHAIN[0]], 2),
        ([*CHAIN, CHAIN[3]], 5),
        ([CHAIN[0], make_record(None, number=1)], 2),
        ([sign_envelope(build_statement(SUBJECTS, UNLEARNING_PREDICATE, {}), SIGNER)], 1),
    ],
    ids=["first dropped", "dropped", "reordered", "replayed", "last replayed", "second beginning", "no link"],
)
def test_a_broken_chain_is_refused(records: list[bytes], broken: int) -> None:
    with pytest.raises(VerificationError, match=f"record {broken} of {len(records)}: doesn't follow the record before it"):
        verify_chain(records, KEYS)


def test_a_tampered_record_in_a_chain_is_named() -> None:
    with pytest.raises(VerificationError, match="record 3 of 4: "):
        verify_chain([*CHAIN[:2], CHAIN[2].replace(b"e", b"f", 1), CHAIN[3]], KEYS)


def test_keyid_is_the_digest_of_the_der_key() -> None:
    public_key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).public_key()
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert parse_public_key(pem, "key.pem").keyid == hashlib.sha256(der).hexdigest()
    assert parse_public_key(pem, "key.pem") == SIGNER.public_key


def test_other_keys_are_refused() -> None:
    private_pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"key", private_pem):
        with pytest.raises(InvalidInputError, match=r"key\.pem: not a public key in PEM"):
            parse_public_key(content, "key.pem")
    elliptic = generate_ec_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidInputError, match=r"key\.pem: not an Ed25519 key"):
        parse_public_key(elliptic, "key.pem")


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
