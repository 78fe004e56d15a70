"""Receipts: made in a workspace, checked without it, and refused once a byte differs. The authority is a local `openssl ts`."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdm_core.digests import canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, LetheError, StateError, VerificationError
from cdm_core.evidence.receipts import verify_receipt
from cdm_core.evidence.trusted_keys import parse_key_list
from flows.receipts import run_export_keys, run_receipt, run_verify
from tasks.evidence.records import append_record
from tasks.keys import create_keys
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
PARAMETERS = Path(__file__).resolve().parents[3] / "params.yaml"


def make_workspace(root: Path, *, status: str = "completed") -> Workspace:
    """A workspace in which request r-1 was closed."""
    ws = Workspace(root)
    create_keys(ws)
    shutil.copy(PARAMETERS, root / "params.yaml")
    ledger = Ledger(ws)
    ledger.receive("r-1", "owner:johanna", sha256_digest(b"request"), b"request", NOW)
    record = append_record(ws, "closing", {"composed-model@3": sha256_digest(b"model")}, {"step_key": "r-1:close"})
    ledger.append("closed", "r-1", {"record": record.name}, NOW)
    answer = {"model_version": 3, "audit_records": [f"/elsewhere/{record.name}"], "purged": {"dvc_cache": 4}}
    ledger.set_status("r-1", status, answer if status == "completed" else {"reason": "no_match"})  # type: ignore[arg-type]
    ledger.forget_content("r-1")
    return ws


def add_authority(ws: Workspace) -> None:
    """A certificate for time stamping, and `openssl ts` that answers with it."""
    folder = ws.root / "tsa"
    folder.mkdir()
    (folder / "tsa.cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=Local Authority\n"
        "[ext]\nbasicConstraints=critical,CA:TRUE\nextendedKeyUsage=critical,timeStamping\nkeyUsage=digitalSignature\n"
        "[tsa]\ndefault_tsa=local\n[local]\nserial=tsa/serial\nsigner_cert=tsa/cert.pem\nsigner_key=tsa/key.pem\n"
        "signer_digest=sha256\ndefault_policy=1.2.3.4.1\ndigests=sha256,sha512\nordering=yes\ntsa_name=yes\n"
        "ess_cert_id_chain=no\ness_cert_id_alg=sha256\n"
    )
    (folder / "serial").write_text("01\n")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -config tsa/tsa.cnf -keyout tsa/key.pem -out tsa/cert.pem"
    subprocess.run(command.split(), cwd=ws.root, check=True, capture_output=True)
    with (ws.root / "params.yaml").open("a") as file:
        file.write("timestamping:\n  name: local authority\n  certificate: tsa/cert.pem\n")
        file.write("  command: [openssl, ts, -reply, -config, tsa/tsa.cnf, -queryfile, '{query}', -out, '{reply}']\n")


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """receipt.json with a time stamp and keys.json, in a folder away from their workspace."""
    folder = tmp_path_factory.mktemp("handed")
    ws = make_workspace(tmp_path_factory.mktemp("ws") / "ws")
    add_authority(ws)
    run_export_keys(ws.root, folder / "keys.json")
    run_receipt(ws.root, "r-1", folder / "receipt.json", None)
    return folder


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def make_second_key(folder: Path) -> tuple[Path, Path]:
    """A private key's file and its public half's."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "second.private.pem", folder / "second.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_stamped_receipt(stamped: Path) -> None:
    document = run_verify(stamped / "receipt.json", None, stamped / "keys.json")
    assert (document["valid"], document["grade"]) == (True, "executed, logged, time-stamped")
    assert [entry["name"] for entry in document["subject"]] == ["record 000001-closing.json", "request r-1"]  # type: ignore[attr-defined, index]
    assert document["keyid"] == json.loads((stamped / "keys.json").read_bytes())["keys"][0]["keyid"]
    assert datetime.fromisoformat(str(document["stamped_at"])).tzinfo is not None


def test_without_an_authority_it_is_logged(ws: Workspace, tmp_path: Path) -> None:
    run_receipt(ws.root, "r-1", tmp_path / "receipt.json", None)
    document = run_verify(tmp_path / "receipt.json", ws.root, None)
    assert (document["grade"], document["stamped_at"]) == ("executed, logged", None)
    with pytest.raises(InvalidInputError, match=r"say whose keys to trust, with --trust keys\.json"):
        run_verify(tmp_path / "receipt.json", None, None)


def test_without_a_trusted_authority_the_grade_does_not_speak_of_time(stamped: Path, tmp_path: Path) -> None:
    trusted = json.loads((stamped / "keys.json").read_bytes())
    del trusted["digest"], trusted["timestamp_authorities"]
    (tmp_path / "keys.json").write_text(json.dumps(trusted))
    assert run_verify(stamped / "receipt.json", None, tmp_path / "keys.json")["grade"] == "executed, logged"


def test_a_refused_request_gets_a_receipt(tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws", status="refused")
    assert run_receipt(ws.root, "r-1", tmp_path / "receipt.json", None)["grade"] == "refused, logged"


def test_the_same_request_again_gives_the_same_envelope_and_event(ws: Workspace, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        run_receipt(ws.root, "r-1", tmp_path / name, None)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    Ledger(ws).append("step", None, {}, NOW)
    run_receipt(ws.root, "r-1", tmp_path / "c.json", None)
    first, later = (json.loads((tmp_path / name).read_bytes()) for name in ("a.json", "c.json"))
    assert (first["envelope"], first["event"]) == (later["envelope"], later["event"])


def test_an_unlinked_request_keeps_its_receipt(ws: Workspace, tmp_path: Path) -> None:
    run_receipt(ws.root, "r-1", tmp_path / "receipt.json", None)
    Ledger(ws).unlink(["r-1"], [], NOW)
    assert run_verify(tmp_path / "receipt.json", ws.root, None)["valid"] is True
    with pytest.raises(StateError, match="r-1: no such request"):
        run_receipt(ws.root, "r-1", tmp_path / "again.json", None)


def test_an_open_request_gets_none(ws: Workspace, tmp_path: Path) -> None:
    Ledger(ws).receive("r-2", "owner:johanna", sha256_digest(b"other"), b"other", NOW)
    with pytest.raises(StateError, match="r-2: is not closed; its status is received"):
        run_receipt(ws.root, "r-2", tmp_path / "receipt.json", None)


def test_two_of_two_verify_with_securesystemslib_alone(ws: Workspace, tmp_path: Path) -> None:
    private, public = make_second_key(tmp_path)
    run_receipt(ws.root, "r-1", tmp_path / "receipt.json", private)
    shutil.copy(ws.keys / "workspace.pem", tmp_path)
    program = """if True:
        import hashlib, json, sys
        sys.modules["cdm_core"] = sys.modules["tasks"] = sys.modules["flows"] = None  # an import of ours would fail
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
        from securesystemslib.signer import SSlibKey
        with open("receipt.json") as file:
            envelope = Envelope.from_dict(json.load(file)["envelope"])
        keys = []
        for name in ("workspace.pem", "second.pem"):
            with open(name, "rb") as file:
                keys.append(SSlibKey.from_crypto(load_pem_public_key(file.read()), keyid=list(envelope.signatures)[len(keys)]))
        print(len(envelope.verify(keys, 2)))
        try:
            envelope.verify(keys[:1], 2)
        except (VerificationError, ValueError) as error:
            print(type(error).__name__)
    """
    out = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["2", "ValueError"]
    # And with our own verifier, which refuses one signature where two are asked for.
    trusted = {"schema": "lethe/trusted-keys/v1", "threshold": 2, "keys": [{"name": "workspace", "public_key": ""}]}
    trusted["keys"] = [{"name": path.stem, "public_key": path.read_text()} for path in (ws.keys / "workspace.pem", public)]
    (tmp_path / "keys.json").write_text(json.dumps(trusted))
    document = run_verify(tmp_path / "receipt.json", None, tmp_path / "keys.json")
    assert document["signers"] == ["workspace", "second"]
    run_receipt(ws.root, "r-1", tmp_path / "one.json", None)
    with pytest.raises(VerificationError, match="signed by 1 of the trusted keys, where 2 are asked for"):
        run_verify(tmp_path / "one.json", None, tmp_path / "keys.json")


def test_the_workspace_s_own_key_is_no_second_one(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"workspace\.private\.pem: is the workspace's own key, which signs already$"):
        run_receipt(ws.root, "r-1", tmp_path / "receipt.json", ws.keys / "workspace.private.pem")
    assert not Ledger(ws).events(kind="receipt")


@pytest.mark.parametrize("name", [".", "folder", "file/receipt.json"])
def test_a_receipt_that_can_t_be_written_is_not_logged(ws: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"kept")
    before = sorted(tmp_path.iterdir())
    for write in (run_export_keys, lambda root, out: run_receipt(root, "r-1", out, None)):
        with pytest.raises(InvalidInputError, match="can't be written"):
            write(ws.root, tmp_path / name)
    assert not Ledger(ws).events(kind="receipt")
    assert sorted(tmp_path.iterdir()) == before


def test_a_record_is_refused_by_a_list_that_asks_for_two_signatures(ws: Workspace, tmp_path: Path) -> None:
    _, public = make_second_key(tmp_path)
    run_export_keys(ws.root, tmp_path / "keys.json")
    trusted = json.loads((tmp_path / "keys.json").read_bytes())
    del trusted["digest"]
    trusted["keys"].append({"name": "second", "public_key": public.read_text()})
    record = ws.records / "000001-closing.json"
    (tmp_path / "keys.json").write_text(json.dumps(trusted))
    assert run_verify(record, None, tmp_path / "keys.json")["valid"]
    (tmp_path / "keys.json").write_text(json.dumps({**trusted, "threshold": 2}))
    with pytest.raises(VerificationError, match=r"closing\.json: signed by 1 of the trusted keys, where 2 are asked for$"):
        run_verify(record, None, tmp_path / "keys.json")


@pytest.mark.parametrize("name", ["receipt.json", "ledger.sqlite"])
def test_links_that_lead_round_in_a_circle_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(InvalidInputError, match=f"{name}: cannot be read: its links lead nowhere$"):
        run_verify(tmp_path / name, None, None)


def test_a_stranger_s_key_checks_nothing(stamped: Path, tmp_path: Path) -> None:
    _, public = make_second_key(tmp_path)
    document = {"schema": "lethe/trusted-keys/v1", "keys": [{"name": "stranger", "public_key": public.read_text()}]}
    (tmp_path / "keys.json").write_text(json.dumps(document))
    with pytest.raises(VerificationError, match=r"receipt\.json: signed by none of the trusted keys"):
        run_verify(stamped / "receipt.json", None, tmp_path / "keys.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(fraction=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_receipt_is_refused(stamped: Path, fraction: float, bit: int) -> None:
    content = (stamped / "receipt.json").read_bytes()
    trusted = parse_key_list((stamped / "keys.json").read_bytes(), "keys.json")
    position = int(fraction * len(content))
    tampered = content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
    with pytest.raises(VerificationError):
        verify_receipt(tampered, trusted)


@pytest.mark.slow
def test_every_flipped_byte_of_a_receipt_is_refused(stamped: Path) -> None:
    content, trusted = (stamped / "receipt.json").read_bytes(), parse_key_list((stamped / "keys.json").read_bytes(), "keys.json")
    for position in range(len(content)):
        with pytest.raises(VerificationError):
            verify_receipt(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :], trusted)


def test_any_flipped_bit_of_a_key_list_is_refused(stamped: Path) -> None:
    content = (stamped / "keys.json").read_bytes()
    for position in range(len(content)):
        tampered = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(InvalidInputError, match=r"^keys\.json: "):
            parse_key_list(tampered, "keys.json")


def test_parts_of_two_receipts_do_not_mix(ws: Workspace, tmp_path: Path) -> None:
    private, _ = make_second_key(tmp_path)
    run_receipt(ws.root, "r-1", tmp_path / "one.json", None)
    run_receipt(ws.root, "r-1", tmp_path / "two.json", private)
    run_export_keys(ws.root, tmp_path / "keys.json")
    one, two = (json.loads((tmp_path / name).read_bytes()) for name in ("one.json", "two.json"))
    for part in ("envelope", "event", "salt", "proof"):
        (tmp_path / "mixed.json").write_bytes(canonical_json({**one, part: two[part]}) + b"\n")
        with pytest.raises(LetheError):
            run_verify(tmp_path / "mixed.json", None, tmp_path / "keys.json")


def test_records_cut_off_at_the_end_are_missed(ws: Workspace) -> None:
    last = append_record(ws, "review", {"composed-model@3": sha256_digest(b"model")}, {"step_key": "r-1:review"})
    assert run_verify(ws.ledger / "ledger.sqlite", None, None)["records"] == 2
    last.unlink()
    with pytest.raises(VerificationError, match=r"000002-review\.json: was logged and is gone"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)
    with pytest.raises(VerificationError, match="was logged and is gone"):
        append_record(ws, "review", {"composed-model@3": sha256_digest(b"model")}, {"step_key": "r-1:other"})


def check_as_a_stranger(folder: Path, tmp_path: Path) -> tuple[dict[str, object], float, list[str]]:
    """The answer, its seconds, and the heavy libraries that a process of its own loaded for it."""
    program = """if True:
        import json, sys, time
        sys.argv = ["lethe", "verify", "receipt.json", "--trust", "keys.json", "--json"]
        from flows.cli import app
        start = time.perf_counter()
        app(standalone_mode=False)
        print(json.dumps([time.perf_counter() - start, sorted(set(sys.modules) & {"torch", "mlflow", "prefect", "dvc"})]))
    """
    for name in ("receipt.json", "keys.json"):
        shutil.copy(folder / name, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(PARAMETERS.parent)}
    out = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    document, (seconds, heavy) = (json.loads(line) for line in out.splitlines())
    return document, seconds, heavy


def test_a_stranger_s_machine_needs_neither_workspace_nor_torch(stamped: Path, tmp_path: Path) -> None:
    document, _, heavy = check_as_a_stranger(stamped, tmp_path)
    assert document["valid"] is True
    assert heavy == []


@pytest.mark.benchmarks
def test_a_stranger_needs_little_time(stamped: Path, tmp_path: Path) -> None:
    assert check_as_a_stranger(stamped, tmp_path)[1] < 1
