"""Access by grant: shards outside it are neither loaded nor able to influence a pixel."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from built_workspace import Built, copy_workspace
from tiny_workspace import ISSUER, lethe, make_workspace, owners_of

from cdm_core.composition.document import parse_composition
from cdm_core.evidence.grants import Grant
from tasks.keys import workspace_key
from tasks.models.compositions import centroid_files
from tasks.models.entitlements import write_grant
from tasks.models.model_registry import adapters_of, champion, composition_of
from tasks.workspace import Workspace

GRANTED, OTHER = (0, 2), 1


def grant(ws: Workspace, out: Path, shards: str = "0,2") -> dict[str, Any]:
    return lethe(ws, "grant", "--subject", "studio", "--shards", shards, "--expires", "2999-01-01", "--out", out).document


def draw(ws: Workspace, out: Path, *options: str | Path) -> tuple[dict[str, Any], bytes]:
    document = lethe(ws, "generate", "--num", "9", "--seed", "3", "--out", out, *options).document
    return document, out.read_bytes()


def refused(ws: Workspace, out: Path, *options: str | Path) -> str:
    ran = lethe(ws, "generate", "--num", "1", "--out", out, *options)
    assert (ran.code, ran.out, ran.err.count("\n"), out.exists()) == (1, "", 1, False)
    return ran.err.removeprefix("lethe: ").rstrip("\n")


def ruin_other_shard(ws: Workspace, *, delete: bool) -> None:
    """Delete or damage every file of the other shard that a model is put together from."""
    serving = champion(ws)
    assert serving is not None
    composition = parse_composition(composition_of(ws, serving.version))
    ruined = [adapters_of(ws, serving.version)[OTHER], ws.adapter(OTHER), centroid_files(ws, composition)[OTHER], ws.manifest(OTHER)]
    for path in ruined:
        assert ws.root in path.parents
        content = path.read_bytes()
        path.unlink()
        if not delete:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "method", ["knn", *(pytest.param(method, marks=pytest.mark.slow) for method in ("shard_per_image", "average", "random"))]
)
def test_pictures_are_those_of_a_workspace_without_the_other_shards(built: Built, tmp_path: Path, method: str) -> None:
    made = grant(built.ws, tmp_path / "grant.json")
    assert (made["subject"], made["shards"], made["expires_at"]) == ("studio", [0, 2], "2999-01-01T00:00:00Z")
    options = ("--entitlements", tmp_path / "grant.json", "--method", method)
    document, pixels = draw(built.ws, tmp_path / "granted.png", *options)
    assert (document["shards"], document["subject"]) == ([0, 2], "studio")
    assert {picture["shard"] for picture in document["per_image"]} <= ({0, 2} if method == "shard_per_image" else {None})
    for delete in (True, False):
        without = copy_workspace(built.ws, tmp_path / f"without-{delete}")
        ruin_other_shard(without, delete=delete)
        assert draw(without, tmp_path / "without.png", *options)[1] == pixels
        assert lethe(without, "generate", "--num", "9", "--out", tmp_path / "all.png", "--method", method).code == 1
        shutil.rmtree(without.root)
    # The canary: with the other shard it comes out otherwise.
    assert draw(built.ws, tmp_path / "whole.png", "--method", method)[1] != pixels


EVERY_WAY = [
    *[("--method", method) for method in ("shard_per_image", "knn", "average", "random", "bayes", "cp_delta")],
    *[("--method", f"top_k:{method}") for method in ("shard_per_image", "knn", "average", "random", "bayes")],
    *[("--prompt", "crimson thing 0", "--prior", prior) for prior in ("counts", "captions", "clip")],
    ("--prompt", "crimson thing 0", "--prior", "clip", "--method", "knn"),
]


@pytest.mark.slow
def test_pictures_are_those_of_a_workspace_that_never_had_the_other_owners(built: Built, tmp_path: Path) -> None:
    """Really built without them, and asked without a grant."""
    never = make_workspace(tmp_path / "never", without=owners_of(OTHER))
    assert lethe(never, "build").document["model_version"] == 1
    grant(built.ws, tmp_path / "grant.json")
    for way in EVERY_WAY:
        ran = lethe(built.ws, "generate", "--num", "3", "--out", tmp_path / "granted.png", "--entitlements", tmp_path / "grant.json", *way)
        alone = lethe(never, "generate", "--num", "3", "--out", tmp_path / "never.png", *way)
        assert ran.document["shards"] == alone.document["shards"] == [0, 2], way
        assert (tmp_path / "granted.png").read_bytes() == (tmp_path / "never.png").read_bytes(), way


@pytest.mark.parametrize("method", ["classifier", "top_k:classifier"])
def test_the_classifier_saw_every_shard_so_a_grant_of_some_refuses_it(built: Built, tmp_path: Path, method: str) -> None:
    grant(built.ws, tmp_path / "grant.json")
    told = refused(built.ws, tmp_path / "no.png", "--entitlements", tmp_path / "grant.json", "--method", method)
    assert told == "classifier: it has seen every shard, and this composition leaves one out or names none; use another method"
    assert not (built.ws.cache / "classifiers").exists()


def test_a_shard_may_be_chosen_within_the_grant_only(built: Built, tmp_path: Path) -> None:
    grant(built.ws, tmp_path / "grant.json")
    options = ("--entitlements", tmp_path / "grant.json")
    assert draw(built.ws, tmp_path / "grid.png", *options, "--shards", "2")[0]["shards"] == [2]
    told = refused(built.ws, tmp_path / "no.png", *options, "--shards", "1,2")
    assert told == "shard 1 is not in the grant; it has [0, 2]"


def test_an_expired_grant_is_refused(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    write_grant(built.ws, path, subject="studio", shards=[0], expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert refused(built.ws, tmp_path / "no.png", "--entitlements", path) == f"{path}: grant refused: it expired at 2020-01-01T00:00:00Z"


def test_a_foreign_grant_is_refused(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    grant(make_workspace(tmp_path / "foreign"), path)
    told = refused(built.ws, tmp_path / "no.png", "--entitlements", path)
    assert told == f"{path}: grant refused: signed by none of the trusted keys"


def test_a_tampered_grant_is_refused(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    grant(built.ws, path)
    content = path.read_bytes()
    for position in (0, len(content) // 3, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert refused(built.ws, tmp_path / "no.png", "--entitlements", path).startswith(f"{path}: grant refused: ")


def test_an_audit_record_is_no_grant(built: Built, tmp_path: Path) -> None:
    record = next(built.ws.records.rglob("*.json"))
    assert refused(built.ws, tmp_path / "no.png", "--entitlements", record).endswith("grant refused: signed, but not a grant")


def test_a_registered_issuer_may_sign_one(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    mine = Grant(workspace=workspace_key(built.ws).keyid, subject="studio", shards=GRANTED, expires_at=datetime(2999, 1, 1, tzinfo=UTC))
    path.write_bytes(mine.to_bytes())
    options = ("--entitlements", path)
    assert "grant refused: not a DSSE envelope" in refused(built.ws, tmp_path / "no.png", *options)
    lethe(built.ws, "sign", path, "--issuer", ISSUER)
    assert draw(built.ws, tmp_path / "grid.png", *options)[0]["shards"] == [0, 2]
    path.write_bytes(mine.to_bytes().replace(b"[0,2]", b"[0,1]"))
    told = refused(built.ws, tmp_path / "no.png", *options)
    assert told == f"{path}: grant refused: its signature holds for no registered issuer (unknown_issuer)"
    path.write_bytes(json.dumps({**mine.to_document(), "workspace": "0" * 64}).encode())
    lethe(built.ws, "sign", path, "--issuer", ISSUER)
    assert refused(built.ws, tmp_path / "no.png", *options) == f"{path}: grant refused: it is for another workspace"


def test_a_missing_grant_is_told(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    told = refused(built.ws, tmp_path / "no.png", "--entitlements", path)
    assert told == f"{path}: can't be read: No such file or directory"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shards", "7", "--expires", "2999-01-01"), "shard 7: params.yaml has [0, 1, 2]"),
        (("--shards", "x", "--expires", "2999-01-01"), "shards: 'x' is not a list of numbers such as 0,3"),
        (("--shards", "0", "--expires", "soon"), "expires: 'soon' is neither a date such as 2027-01-31 nor an ISO 8601 time"),
        (("--shards", "0", "--expires", "2020-01-01"), "expires: 2020-01-01 is over already"),
    ],
)
def test_what_cannot_be_granted_is_told(built: Built, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ran = lethe(built.ws, "grant", "--subject", "studio", *options, "--out", tmp_path / "grant.json")
    assert (ran.code, ran.err) == (1, f"lethe: {message}\n")
    assert not (tmp_path / "grant.json").exists()


def test_a_grant_needs_a_name_and_a_folder(built: Built, tmp_path: Path) -> None:
    common = ("--shards", "0", "--expires", "2999-01-01", "--out")
    assert "subject: must be 1 to 256 printable" in lethe(built.ws, "grant", "--subject", " ", *common, tmp_path / "grant.json").err
    out = tmp_path / "gone" / "grant.json"
    assert lethe(built.ws, "grant", "--subject", "studio", *common, out).err == f"lethe: {out}: its folder doesn't exist\n"
