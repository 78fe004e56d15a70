"""What `lethe submit` refuses: one line on stderr, exit code 1, an event in the ledger, and nothing else changed."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny_workspace import DOMAIN, ISSUER, OWNERS, Ran, draw_picture, lethe, make_workspace, signed_request, write_request
from workspace_snapshot import event_kinds, flip_byte, tree_digests

from tasks.ledger.store import Ledger
from tasks.models.model_registry import champion
from tasks.workspace import Workspace

# What a refusal may change: the ledger tells of it, and Prefect of the flow that found nothing; git and DVC note when they looked at files.
_TOLD = (".lethe/ledger", ".lethe/prefect", ".lethe/flow.lock", ".lethe/dvc/site", ".dvc/tmp", ".git/index")


@pytest.fixture(scope="module")
def ws(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy for this module, in which nothing but the ledger may change."""
    ws = copy_workspace(built.ws, tmp_path_factory.mktemp("refusals") / "ws")
    assert champion(ws)  # from here on MLflow's addresses are those of the copy
    return ws


def _submit_and_compare(ws: Workspace, path: Path) -> Ran:
    before, requests = tree_digests(ws.root, but=_TOLD), len(Ledger(ws).requests())
    ran = lethe(ws, "submit", path)
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("lethe: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert DOMAIN not in ran.err
    assert tree_digests(ws.root, but=_TOLD) == before
    assert len(Ledger(ws).requests()) - requests in (0, 1)
    return ran


def _write(content: bytes, name: str = "request.yaml") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _edited(**changes: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = write_request(folder, owner_ids=[OWNERS[0].owner_id])
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path

    return write


_BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b, *b, *b]\n"

MALFORMED = {
    "empty": (_write(b""), "not YAML: the document is empty", "malformed"),
    "not UTF-8": (_write(b"schema: \xff\xfe"), "not UTF-8 at byte 8", "not_text"),
    "YAML bomb": (_write(_BOMB), "line 1: anchors and aliases are not allowed", "malformed"),
    "not JSON": (_write(b"{", "request.json"), "not JSON", "malformed"),
    "a list": (_write(b"- 1\n"), "document: Input should be", "bad_field"),
    "number as id": (_edited(request_id=7), "request_id: Input should be a valid string", "bad_field"),
    "owners as text": (_edited(subject={"owner_ids": "anna"}), "subject.owner_ids: Input should be a valid list", "bad_field"),
    "unknown field": (_edited(color="red"), "color: Extra inputs are not permitted", "bad_field"),
    "no zone": (_edited(submitted_at="2026-01-01"), "submitted_at: must be a date and time with its zone", "bad_field"),
    "no subject": (_edited(subject={}), "subject: names nothing to forget", "empty_subject"),
    "path escape": (_edited(subject={"image_files": ["../../etc/passwd"]}), "must be a relative path", "path_escape"),
    "absolute path": (_edited(subject={"image_files": ["/etc/passwd"]}), "must be a relative path", "path_escape"),
    "missing picture": (_edited(subject={"image_files": ["gone.png"]}), "image_files.0: no such file", "image_missing"),
    "another's name": (_edited(issuer="officer:circe"), "states another issuer than the one who signed", "issuer_mismatch"),
    "empty CSV": (_write(b"", "request.csv"), "line 1: the columns must be", "malformed"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_bad_request_gets_one_line(ws: Workspace, tmp_path: Path, name: str) -> None:
    write, message, reason = MALFORMED[name]
    path = write(tmp_path)
    lethe(ws, "sign", path, "--issuer", ISSUER)
    ran = _submit_and_compare(ws, path)
    assert message in ran.err
    refused = Ledger(ws).events()[-1]
    assert (refused.kind, refused.request_id, refused.body["reason"]) == ("refused", None, reason)


def test_a_link_out_of_the_folder_is_an_escape(ws: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(draw_picture(0, 0))
    path = signed_request(ws, tmp_path / "requests", image_files=["mine.png"])
    (path.parent / "mine.png").symlink_to(secret)
    assert "leads out of the request's folder" in _submit_and_compare(ws, path).err
    assert Ledger(ws).request(path.stem) is None


def test_a_refused_picture_leaves_the_id_free(ws: Workspace, tmp_path: Path) -> None:
    path = signed_request(ws, tmp_path, image_files=["late.png"])
    for _ in range(2):
        assert "image_files.0: no such file" in _submit_and_compare(ws, path).err
    (tmp_path / "late.png").write_bytes(draw_picture(OWNERS[0].number, 0))
    assert lethe(ws, "plan", path).document["owners"] == [OWNERS[0].key]


def test_a_picture_that_is_none_is_refused(ws: Workspace, tmp_path: Path) -> None:
    name = f"{OWNERS[0].owner_id}.png"
    (tmp_path / name).write_bytes(draw_picture(0, 0)[:100])
    path = signed_request(ws, tmp_path, image_files=[name])
    assert "image_files.0: not a readable PNG or JPEG picture" in _submit_and_compare(ws, path).err
    assert lethe(ws, "status", path.stem).document["requests"][0]["status"] == "refused"
    assert name.encode() not in (ws.ledger / "ledger.sqlite").read_bytes()  # which keeps the answer


def test_an_unknown_owner_is_refused_for_good(ws: Workspace, tmp_path: Path) -> None:
    path = signed_request(ws, tmp_path, owner_ids=[f"nobody{DOMAIN}"])
    for _ in range(2):
        assert "no such owner or sample in this workspace" in _submit_and_compare(ws, path).err
    assert event_kinds(ws, path.stem) == ["received", "refused"]
    (row,) = lethe(ws, "status", path.stem).document["requests"]
    assert (row["status"], row["reason"]) == ("refused", "no_match")


def test_a_huge_file_is_refused_by_its_size(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert "huge.yaml: 100,000,000 bytes, more than the 1,000,000 of a request" in _submit_and_compare(ws, path).err
    assert Ledger(ws).events()[-1].body["reason"] == "too_large"


@pytest.mark.parametrize(("name", "message"), [("missing.yaml", "No such file or directory"), ("folder.yaml", "Is a directory")])
def test_what_is_no_file_is_told_so(ws: Workspace, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.yaml").mkdir()
    assert _submit_and_compare(ws, tmp_path / name).err == f"lethe: {tmp_path / name}: can't be read: {message}\n"


def test_an_unsigned_request_is_refused(ws: Workspace, tmp_path: Path) -> None:
    path = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    assert "the request is not signed" in _submit_and_compare(ws, path).err
    assert Ledger(ws).events()[-1].body["reason"] == "unsigned"
    # Nobody's request must not block a genuine one of that id.
    assert Ledger(ws).request(path.stem) is None


def test_a_request_changed_after_signing_is_refused(ws: Workspace, tmp_path: Path) -> None:
    path = signed_request(ws, tmp_path, owner_ids=[OWNERS[0].owner_id])
    flip_byte(path)
    assert "fits no registered issuer, or the file was changed after signing" in _submit_and_compare(ws, path).err
    assert Ledger(ws).events()[-1].body["reason"] == "unknown_issuer"


def test_a_stranger_is_refused(ws: Workspace, tmp_path: Path) -> None:
    path = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    signature = Ed25519PrivateKey.generate().sign(path.read_bytes())
    path.with_name(f"{path.name}.sig").write_bytes(base64.b64encode(signature))
    assert "fits no registered issuer" in _submit_and_compare(ws, path).err


def test_an_id_with_another_body_is_refused(forgotten: Forgotten, tmp_path: Path) -> None:
    ws = copy_workspace(forgotten.ws, tmp_path / "ws")
    path = signed_request(ws, tmp_path, forgotten.request.stem, owner_ids=[OWNERS[1].owner_id])
    assert "the id is already taken by another request body" in _submit_and_compare(ws, path).err
    assert Ledger(ws).events()[-1].body["reason"] == "request_id_reused"
    assert lethe(ws, "submit", forgotten.request).document == forgotten.answer


def test_a_bulk_file_is_taken_in_as_a_whole_or_not_at_all(forgotten: Forgotten, tmp_path: Path) -> None:
    ws = copy_workspace(forgotten.ws, tmp_path / "ws")
    line = f"{{}},{ISSUER},gdpr,2026-01-01T00:00:00Z,{OWNERS[1].owner_id},\n"
    path = tmp_path / "bulk.csv"
    path.write_text(
        "request_id,issuer,regulation,submitted_at,owner_id,sample_id\n" + line.format("r-new") + line.format(forgotten.request.stem)
    )
    lethe(ws, "sign", path, "--issuer", ISSUER)
    assert "the id is already taken" in _submit_and_compare(ws, path).err
    assert Ledger(ws).request("r-new") is None


def test_without_a_model_there_is_nothing_to_forget_from(tmp_path: Path, prefect_server: None) -> None:
    ws = make_workspace(tmp_path / "ws", without=OWNERS[2:])
    path = signed_request(ws, tmp_path, owner_ids=[OWNERS[0].owner_id])
    ran = lethe(ws, "submit", path)
    assert ran.code == 1
    assert "there is no model to forget from; run: lethe build" in ran.err


def test_a_shell_sees_one_line_and_exit_code_1(ws: Workspace, tmp_path: Path) -> None:
    path = _write(b"")(tmp_path)
    lethe(ws, "sign", path, "--issuer", ISSUER)
    script = Path(sys.executable).with_name("lethe")
    ran = subprocess.run([script, "submit", path, "--workspace", ws.root, "--json"], capture_output=True, env=os.environ, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, b"", b"lethe: request.yaml: not YAML: the document is empty\n")
