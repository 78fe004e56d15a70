"""Audit-record files: one chain whoever writes, and what `verify_record` finds out."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from cdm_core.digests import Json, canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, StateError, VerificationError
from cdm_core.evidence.audit_record import REASONS, check_statement
from cdm_core.evidence.envelopes import UNLEARNING_PREDICATE, build_public_key, build_statement, sign_envelope, verify_chain
from tasks.evidence.records import append_record, append_records, load_records, verify_record
from tasks.keys import add_issuer, create_keys, workspace_key, workspace_signer
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

SUBJECTS = {"composed-model": sha256_digest(b"model")}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    create_keys(ws)
    return ws


def append(ws: Workspace, step_key: str, artifacts: Mapping[str, bytes] | None = None, **predicate: Json) -> Path:
    """A record that names artifacts with the digests of the given contents."""
    named: Json = [{"path": path, "digest": sha256_digest(content)} for path, content in (artifacts or {}).items()]
    return append_record(ws, "build", SUBJECTS, {"step_key": step_key, "artifacts": named, **predicate})


def write(ws: Workspace, name: str, content: bytes) -> None:
    path = ws.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_records_form_a_chain(ws: Workspace) -> None:
    paths = [append(ws, step_key) for step_key in ("a", "b", "c")]
    assert [path.name for path in paths] == ["000001-build.json", "000002-build.json", "000003-build.json"]
    assert load_records(ws) == [path.read_bytes() for path in paths]
    statements = verify_chain(load_records(ws), [workspace_key(ws)])
    assert [statement.predicate["step_key"] for statement in statements] == ["a", "b", "c"]
    assert sorted(path.name for path in ws.records.iterdir()) == [".lock", *(path.name for path in paths)]


def test_a_step_writes_one_record(ws: Workspace) -> None:
    first = append(ws, "a", verdict="pass")
    content = first.read_bytes()
    append(ws, "b")
    assert append(ws, "a", verdict="fail") == first
    assert first.read_bytes() == content
    assert len(load_records(ws)) == 2


def test_records_appended_together_continue_the_chain_and_each_is_written_once(ws: Workspace) -> None:
    first = append(ws, "a")
    together: list[dict[str, Json]] = [{"step_key": step_key, "artifacts": []} for step_key in ("b", "a", "c")]
    paths = append_records(ws, "closing", SUBJECTS, together)
    assert [path.name for path in paths] == ["000002-closing.json", "000001-build.json", "000003-closing.json"]
    assert paths[1] == first
    assert append_records(ws, "closing", SUBJECTS, together) == paths
    assert append_records(ws, "closing", SUBJECTS, []) == []
    statements = verify_chain(load_records(ws), [workspace_key(ws)])
    assert [statement.predicate["step_key"] for statement in statements] == ["a", "b", "c"]
    Ledger(ws).verify()
    verify_record(paths[2])


def test_writers_at_once_make_one_chain(ws: Workspace) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append(ws, f"step-{number % 8}"), range(16)))
    assert len(verify_chain(load_records(ws), [workspace_key(ws)])) == 8


def test_what_cannot_be_a_record(ws: Workspace, tmp_path: Path) -> None:
    for predicate in ({}, {"step_key": 1}, {"step_key": "a", "previous_record": None}):
        with pytest.raises(ValueError, match="brings a step_key and leaves previous_record to the chain"):
            append_record(ws, "build", SUBJECTS, predicate)
    for kind in ("", "../build", "Build", "a b"):
        with pytest.raises(ValueError, match="is not a kind of record"):
            append_record(ws, kind, SUBJECTS, {"step_key": "a"})
    with pytest.raises(StateError, match="the private key is missing"):
        append(Workspace(tmp_path / "keyless"), "a")
    assert load_records(ws) == []


def test_a_broken_chain_is_not_continued(ws: Workspace) -> None:
    first = append(ws, "a")
    append(ws, "b")
    first.unlink()
    with pytest.raises(VerificationError, match="records: record 1 of 1: doesn't follow the record before it"):
        append(ws, "c")
    assert len(load_records(ws)) == 1


def test_verify(ws: Workspace) -> None:
    write(ws, "data_manifests/shard-0.parquet", b"manifest")
    append(ws, "a")
    path = append(ws, "b", {"data_manifests/shard-0.parquet": b"manifest", "adapters/gone.safetensors": b"erased"})
    verified = verify_record(path)
    assert verified.valid
    assert verified.keyid == workspace_key(ws).keyid
    assert verified.subject == [{"name": "composed-model", "digest": {"sha256": SUBJECTS["composed-model"]}}]
    assert verified.statement["predicateType"] == UNLEARNING_PREDICATE
    assert (verified.num_chained, verified.num_matching, verified.num_superseded, verified.num_absent) == (2, 1, 0, 1)


def test_verify_by_a_relative_path(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    append(ws, "a")
    path = append(ws, "b")
    monkeypatch.chdir(ws.records)
    assert verify_record(Path(path.name)).num_chained == 2


def test_a_changed_artifact_is_refused(ws: Workspace) -> None:
    path = append(ws, "a", {"adapters/shard-0.safetensors": b"adapter"})
    write(ws, "adapters/shard-0.safetensors", b"adaptes")
    with pytest.raises(VerificationError, match=r"000001-build\.json: artifact adapters/shard-0\.safetensors: is not the file"):
        verify_record(path)
    (ws.root / "adapters/shard-0.safetensors").unlink()
    (ws.root / "adapters/shard-0.safetensors").mkdir()
    with pytest.raises(VerificationError, match="is not the file that the record names"):
        verify_record(path)


def test_an_artifact_that_a_later_record_wrote_anew_is_superseded(ws: Workspace) -> None:
    name = "adapters/shard-0.safetensors"
    write(ws, name, b"new")
    first = append(ws, "a", {name: b"old"})
    with pytest.raises(VerificationError, match="is not the file that the record names"):
        verify_record(first)
    second = append(ws, "b", {name: b"new"})
    assert (verify_record(first).num_superseded, verify_record(first).num_matching) == (1, 0)
    assert (verify_record(second).num_superseded, verify_record(second).num_matching) == (0, 1)
    # Only a record that holds supersedes.
    second.write_bytes(second.read_bytes() + b"\n")
    with pytest.raises(VerificationError, match="is not the file that the record names"):
        verify_record(first)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "a/../../b", "", "."])
def test_artifacts_lie_inside_the_workspace(ws: Workspace, name: str) -> None:
    with pytest.raises(VerificationError, match="not a path inside the workspace"):
        verify_record(append(ws, "a", {name: b""}))


@pytest.mark.parametrize("artifacts", [None, "text", 1, {"path": "a"}, ["a"], [{"path": "a"}], [{"path": 1, "digest": "b"}]])
def test_artifacts_of_another_shape_are_refused(ws: Workspace, artifacts: Json) -> None:
    with pytest.raises(ValueError, match="a record doesn't fit its schema: predicate/artifacts"):
        append_record(ws, "build", SUBJECTS, {"step_key": "a", "artifacts": artifacts})
    path = append(ws, "a")
    payload = build_statement(SUBJECTS, UNLEARNING_PREDICATE, {"step_key": "a", "previous_record": None, "artifacts": artifacts})
    path.write_bytes(sign_envelope(payload, workspace_signer(ws)))
    with pytest.raises(VerificationError, match="artifacts: must be a list of paths and digests"):
        verify_record(path)


def test_every_changed_byte_is_refused(ws: Workspace) -> None:
    path = append(ws, "a")
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(VerificationError, match=r"000001-build\.json: "):
            verify_record(path)


def test_a_chain_broken_before_the_record_is_refused(ws: Workspace) -> None:
    paths = [append(ws, step_key) for step_key in ("a", "b", "c", "d")]
    contents = [path.read_bytes() for path in paths]
    paths[1].unlink()
    for path in paths[2:]:
        with pytest.raises(VerificationError, match=r"the record before 000003-build\.json is missing, or two have one number"):
            verify_record(path)
    assert verify_record(paths[0]).num_chained == 1
    paths[1].write_bytes(contents[1][:-1] + b" ")
    with pytest.raises(VerificationError, match="record 2 of 4: "):
        verify_record(paths[3])
    paths[1].write_bytes(contents[2])
    paths[2].write_bytes(contents[1])
    with pytest.raises(VerificationError, match="record 2 of 3: doesn't follow the record before it"):
        verify_record(paths[2])


def test_two_records_with_one_number_are_refused(ws: Workspace) -> None:
    paths = [append(ws, step_key) for step_key in ("a", "b", "c")]
    shutil.copy(paths[1], ws.records / "000002-fork.json")
    with pytest.raises(VerificationError, match=r"the record before 000002-fork\.json is missing, or two have one number"):
        verify_record(paths[2])


def test_a_part_of_the_chain_handed_over(ws: Workspace, tmp_path: Path) -> None:
    paths = [append(ws, step_key, {"adapter": b"adapter"}) for step_key in ("a", "b", "c", "d")]
    folder = tmp_path / "handed"
    folder.mkdir()
    for path in paths[1:3]:
        shutil.copy(path, folder)
    keys = [workspace_key(ws)]
    assert verify_record(folder / paths[2].name, keys).num_chained == 2
    alone = shutil.copy(paths[3], folder / "audit.json")
    verified = verify_record(Path(alone), keys)
    assert (verified.num_chained, verified.num_absent) == (1, 1)
    shutil.copy(paths[3], folder / paths[1].name)
    with pytest.raises(VerificationError, match="record 2 of 2: doesn't follow the record before it"):
        verify_record(folder / paths[2].name, keys)
    with pytest.raises(InvalidInputError, match="no public key to check it with"):
        verify_record(Path(alone))


def test_only_trusted_keys_count(ws: Workspace, tmp_path: Path) -> None:
    path = append(ws, "a")
    stranger = build_public_key(Ed25519PrivateKey.generate().public_key())
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_record(path, [stranger])
    # An issuer may sign requests and no records, though their key lies in the same folder.
    issuer = add_issuer(ws, "agency", None)
    private_key = load_pem_private_key(issuer.path.with_name(f"{issuer.keyid}.private.pem").read_bytes(), password=None)
    assert isinstance(private_key, Ed25519PrivateKey)
    payload = build_statement(SUBJECTS, UNLEARNING_PREDICATE, {"step_key": "a", "previous_record": None})
    path.write_bytes(sign_envelope(payload, CryptoSigner(private_key, build_public_key(private_key.public_key()))))
    with pytest.raises(VerificationError, match="signed by none of the trusted keys"):
        verify_record(path)


def test_another_kind_of_statement_is_no_audit_record(ws: Workspace) -> None:
    path = append(ws, "a")
    payload = build_statement(SUBJECTS, "https://slsa.dev/provenance/v1", {"previous_record": None})
    path.write_bytes(sign_envelope(payload, workspace_signer(ws)))
    with pytest.raises(VerificationError, match="signed, but not as an audit record"):
        verify_record(path)


def test_no_such_record(ws: Workspace) -> None:
    with pytest.raises(InvalidInputError, match=r"000009-build\.json: cannot be read: No such file"):
        verify_record(ws.records / "000009-build.json")
    ws.records.mkdir(parents=True)
    with pytest.raises(InvalidInputError, match=r"records: cannot be read: Is a directory"):
        verify_record(ws.records)


def test_a_record_is_plain_dsse(ws: Workspace) -> None:
    envelope = json.loads(append(ws, "a").read_bytes())
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert [set(signature) for signature in envelope["signatures"]] == [{"keyid", "sig"}]


def test_a_record_answers_every_question_or_says_why_not(ws: Workspace) -> None:
    statement = verify_record(append(ws, "a", clock=None, not_stated={"clock": "voluntary"}, regulation="gdpr")).statement
    check_statement(canonical_json(statement))
    predicate = statement["predicate"]
    assert isinstance(predicate, dict)
    assert set(REASONS) <= set(predicate)
    assert predicate["ledger"]["size"] == 0
    assert {name for name in REASONS if predicate[name] is None} == set(predicate["not_stated"])
    assert predicate["not_stated"]["clock"] == "voluntary"
    del predicate["not_stated"]["clock"]
    with pytest.raises(ValueError, match="predicate/not_stated: 'clock' is a required property"):
        check_statement(canonical_json(statement))
    for name, value in (("purged", {"dvc": -1}), ("request_digest", "abc"), ("affected_shards", ["0"])):
        with pytest.raises(ValueError, match=f"a record doesn't fit its schema: predicate/{name}"):
            append(ws, "b", **{name: value})
