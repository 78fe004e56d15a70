"""The commands that run no flow, as a user runs them: keys, signatures, pictures; and, in a process of its own, the whole of a request."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from PIL import Image
from tiny_workspace import ISSUER, OWNERS, lethe, make_workspace, write_request
from workspace_snapshot import grid_cells, tree_digests

from tasks.workspace import Workspace


def _shell(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("lethe")
    return subprocess.run([script, *arguments], cwd=directory, capture_output=True, text=True, env=os.environ, check=False)


def test_an_issuer_may_bring_a_key(copied: Workspace, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "circe.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    brought = lethe(copied, "keys", "add-issuer", "officer:circe", "--public-key", tmp_path / "circe.pem").document
    made = lethe(copied, "keys", "add-issuer", "officer:helen").document
    assert set(brought) >= {"issuer", "keyid"}
    assert brought["keyid"] != made["keyid"]
    assert (copied.keys / "issuers" / f"{brought['keyid']}.pem").is_file()
    path = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    assert lethe(copied, "sign", path, "--issuer", "officer:helen").document["keyid"] == made["keyid"]
    ran = lethe(copied, "sign", path, "--issuer", "officer:circe")
    assert (ran.code, ran.err) == (1, "lethe: issuer officer:circe: the private key is not kept in this workspace; sign where it is\n")


@pytest.mark.slow
def test_in_a_workspace_no_option_is_needed(built: Built, tmp_path: Path) -> None:
    path = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    before = tree_digests(built.ws.root)
    signed = _shell(built.ws.root, "sign", str(path), "--issuer", ISSUER, "--json")
    assert (signed.returncode, signed.stderr) == (0, "")
    assert set(json.loads(signed.stdout)) >= {"keyid"}
    planned = _shell(built.ws.root, "plan", str(path), "--json")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert json.loads(planned.stdout)["samples"] == len(OWNERS[0].pictures)
    assert tree_digests(built.ws.root) == before


def test_status_of_a_new_workspace_is_empty(built: Built) -> None:
    assert lethe(built.ws, "status").document == {"requests": []}


def test_a_record_can_be_checked_anywhere(forgotten: Forgotten, tmp_path: Path) -> None:
    record = Path(forgotten.answer["audit_records"][1])
    alone = tmp_path / record.name
    alone.write_bytes(record.read_bytes())
    ran = lethe(None, "verify", alone)
    assert ran.code == 1
    assert "no public key to check it with" in ran.err
    document = lethe(forgotten.ws, "verify", alone).document
    assert set(document) >= {"valid", "keyid", "subject"}
    assert document["valid"] is True
    assert document["subject"][0]["name"] == f"composed-model@{forgotten.answer['model_version']}"


@pytest.mark.parametrize("method", ["shard_per_image", "knn", "average", "random"])
def test_every_method_draws(built: Built, tmp_path: Path, method: str) -> None:
    out = tmp_path / "grid.png"
    document = lethe(built.ws, "generate", "--num", "9", "--seed", "1", "--prompt", "red heart", "--method", method, "--out", out).document
    assert set(document) >= {"out", "method", "shards", "per_image"}
    assert (document["method"], document["shards"]) == (method, [0, 1, 2])
    shards = {picture["shard"] for picture in document["per_image"]}
    assert len(document["per_image"]) == 9
    assert shards <= {0, 1, 2} if method == "shard_per_image" else shards == {None}
    with Image.open(out) as image:
        assert image.size == (8 * 100 + 4, 2 * 100 + 4)
    assert len(set(grid_cells(out, 9))) == 9


def test_a_picture_depends_on_seed_prompt_and_model_alone(built: Built, tmp_path: Path) -> None:
    def cells(num: int, seed: int, *options: str) -> list[bytes]:
        lethe(built.ws, "generate", "--num", str(num), "--seed", str(seed), "--out", tmp_path / "grid.png", *options)
        return grid_cells(tmp_path / "grid.png", num)

    eight = cells(8, 1)
    assert cells(10, 1)[:8] == eight
    assert cells(8, 2) != eight
    assert cells(8, 1, "--prompt", "red heart") != eight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shards", "0,x"), "shards: '0,x' is not a list of numbers such as 0,3"),
        (("--shards", "7"), "shard 7 is not in the composition; it has [0, 1, 2]"),
        (
            ("--method", "vote"),
            "method 'vote' is not one of shard_per_image, knn, average, random, bayes, classifier, cp_delta, "
            "top_k:knn, top_k:average, top_k:bayes, top_k:classifier, top_k:shard_per_image, top_k:random",
        ),
    ],
)
def test_what_cannot_be_drawn_is_told(built: Built, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ran = lethe(built.ws, "generate", "--num", "1", "--out", tmp_path / "grid.png", *options)
    assert (ran.code, ran.out, ran.err) == (1, "", f"lethe: {message}\n")
    assert not (tmp_path / "grid.png").exists()


def test_a_grid_needs_a_folder(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "gone" / "grid.png"
    assert lethe(built.ws, "generate", "--num", "1", "--out", out).err == f"lethe: {out}: its folder doesn't exist\n"


def test_before_a_build_nothing_is_drawn(tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws", without=OWNERS[2:])
    ran = lethe(ws, "generate", "--num", "1", "--out", tmp_path / "grid.png")
    assert (ran.code, ran.err) == (1, f"lethe: {ws.root}: there is no model yet; run: lethe build\n")


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--num", "1", "--out"),
        ("attribute", "--generate", "1", "--plot"),
        ("grant", "--subject", "studio", "--shards", "0", "--expires", "2099-01-01", "--out"),
        ("keys", "export", "--out"),
        ("bench", "forget", "--requests", "2", "--timed", "0", "--plot"),
        ("plan", "{request}", "--out"),
        ("report", "paper", "--out"),
        ("pretrain", "clip", "--corpus", "{folder}", "--out"),
        ("pretrain", "backbone", "--minutes", "1", "--corpus", "{folder}", "--out"),
        ("pretrain", "measure", "--corpus", "{folder}", "--out"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_place_that_can_t_be_written_is_told_in_one_line(built: Built, tmp_path: Path, command: tuple[str, ...]) -> None:
    request = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    out = tmp_path / "file" / "below"
    (tmp_path / "file").write_bytes(b"kept")
    before = tree_digests(tmp_path)
    arguments = [part.format(request=request, folder=tmp_path) for part in command]
    ran = lethe(None if command[0] == "pretrain" else built.ws, *arguments, out)
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(rf"lethe: {re.escape(str(out))}\S*: can't be written: {re.escape(str(tmp_path))}/file is not a folder\n", ran.err)
    assert tree_digests(tmp_path) == before


def test_a_signature_that_can_t_be_written_is_told_in_one_line(copied: Workspace, tmp_path: Path) -> None:
    request = write_request(tmp_path, owner_ids=[OWNERS[0].owner_id])
    signature = request.with_name(f"{request.name}.sig")
    signature.mkdir()
    ran = lethe(copied, "sign", request, "--issuer", ISSUER)
    assert (ran.code, ran.out, ran.err) == (1, "", f"lethe: {signature}: can't be written: is a folder\n")
