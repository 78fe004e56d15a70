"""Attribution, copy protection and the newer methods, as a user runs them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from built_workspace import Built
from tiny_workspace import lethe, owners_of, signed_request
from workspace_snapshot import grid_cells

from cdm_core.digests import sha256_digest
from cdm_core.evidence.envelopes import verify_chain
from tasks.deletion import forgetting
from tasks.evidence.records import load_records
from tasks.keys import workspace_key
from tasks.workspace import Workspace


@pytest.mark.slow
def test_generated_pictures_are_attributed_and_validated(built: Built, tmp_path: Path) -> None:
    plot = tmp_path / "weights.svg"
    document = lethe(built.ws, "attribute", "--generate", "4", "--draws", "4", "--validate", "--plot", plot).document
    assert document["shards"] == [0, 1, 2]
    assert len(document["per_image"]) == 4
    for picture in document["per_image"]:
        assert picture["made_by"] in (0, 1, 2)
        assert [row["shard"] for row in picture["credit"]] == [0, 1, 2]
        assert sum(row["common_noise"] for row in picture["credit"]) == pytest.approx(1)
        assert all(row["common_noise_standard_error"] >= 0 and row["path_nats_standard_error"] >= 0 for row in picture["credit"])
        assert picture["highest_credit"] == max(picture["credit"], key=lambda row: row["common_noise"])["shard"]
    assert document["validation"]["source_accuracy"]["trials"] == 4
    assert -1 <= document["validation"]["spearman"] <= 1
    assert ElementTree.fromstring(plot.read_bytes()).tag.endswith("svg")


@pytest.mark.slow
def test_a_picture_file_is_attributed_the_same_every_time(built: Built, tmp_path: Path) -> None:
    picture = tmp_path / "mine.png"
    picture.write_bytes(owners_of(0)[0].pictures[0].png)
    plots, documents = [tmp_path / "1.svg", tmp_path / "2.svg"], []
    for plot in plots:
        documents.append(lethe(built.ws, "attribute", picture, "--draws", "4", "--plot", plot).document)
    assert documents[0]["per_image"] == documents[1]["per_image"]
    assert documents[0]["per_image"][0]["made_by"] is None
    assert plots[0].read_bytes() == plots[1].read_bytes()


@pytest.mark.parametrize("options", [(), ("a.png", "--generate", "2"), ("a.png", "--validate")])
def test_attribute_takes_a_picture_or_makes_some(built: Built, options: tuple[str, ...]) -> None:
    assert lethe(built.ws, "attribute", *options).code == 2


def test_what_is_no_picture_is_told(built: Built, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    assert (
        lethe(built.ws, "attribute", gone, "--plot", tmp_path / "p.svg").err == f"lethe: {gone}: can't be read: No such file or directory\n"
    )
    away = tmp_path / "gone" / "p.svg"
    assert lethe(built.ws, "attribute", gone, "--plot", away).err == f"lethe: {away}: its folder doesn't exist\n"


@pytest.mark.parametrize(
    "method",
    ["bayes", pytest.param("classifier", marks=pytest.mark.slow), "top_k:knn", pytest.param("top_k:bayes", marks=pytest.mark.slow)],
)
def test_newer_methods_draw(copied: Workspace, tmp_path: Path, method: str) -> None:
    out = tmp_path / "grid.png"
    document = lethe(copied, "generate", "--num", "3", "--method", method, "--out", out).document
    assert document["method"] == method
    assert len(set(grid_cells(out, 3))) == 3


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "ddpm"])
def test_every_sampler_draws(built: Built, tmp_path: Path, sampler: str) -> None:
    out = tmp_path / "grid.png"
    made = lethe(built.ws, "generate", "--num", "3", "--sampler", sampler, "--out", out).document
    assert made["method"] == "shard_per_image"
    assert len(set(grid_cells(out, 3))) == 3


@pytest.mark.slow
def test_copy_protection_bounds_and_refuses(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    free = lethe(built.ws, "generate", "--num", "3", "--method", "cp_delta", "--out", out).document
    bounds = [picture["k"] for picture in free["per_image"]]
    assert all(k >= 0 for k in bounds)
    assert free["num_refused"] == 0
    cells, limit = grid_cells(out, 3), sorted(bounds)[1]
    some = lethe(built.ws, "generate", "--num", "3", "--method", "cp_delta", "--bound", str(limit), "--out", out).document
    assert [picture["refused"] for picture in some["per_image"]] == [k > limit for k in bounds]
    after = grid_cells(out, 3)
    for row, k in enumerate(bounds):
        assert (after[row] == cells[row]) == (k <= limit)
    out.unlink()
    ran = lethe(built.ws, "generate", "--num", "3", "--method", "cp_delta", "--bound", "0", "--out", out)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("lethe: bound 0.0: every picture is above it; the lowest has k = ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "heun"), "sampler 'heun' is not one of euler, ddim, dpm_solver, ddpm"),
        (("--method", "bayes", "--sampler", "ddim"), "method bayes needs the stochastic sampler, ddpm, not ddim"),
        (("--bound", "3"), "bound: only --method cp_delta has one, not shard_per_image"),
        (
            ("--method", "classifier", "--shards", "0"),
            "classifier: it has seen every shard, and this composition leaves one out or names none; use another method",
        ),
    ],
)
def test_what_does_not_go_together_is_told(built: Built, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ran = lethe(built.ws, "generate", "--num", "1", "--out", tmp_path / "grid.png", *options)
    assert (ran.code, ran.err) == (1, f"lethe: {message}\n")


@pytest.mark.slow
def test_a_deletion_trains_the_classifier_again(copied: Workspace, tmp_path: Path) -> None:
    lethe(copied, "generate", "--num", "1", "--method", "classifier", "--out", tmp_path / "grid.png")
    before = {path.name: path.read_bytes() for path in (copied.cache / "classifiers").iterdir()}
    request = signed_request(copied, tmp_path / "requests", owner_ids=[owners_of(0, 1)[0].owner_id])
    answer = lethe(copied, "submit", request).document
    after = {path.name: path.read_bytes() for path in (copied.cache / "classifiers").iterdir()}
    assert len(before) == len(after) == 1
    assert set(before) & set(after) == set()
    assert answer["purged"]["classifiers"] == 1
    assert recorded_classifiers(copied) == [sha256_digest(content) for content in after.values()]
    assert lethe(copied, "generate", "--num", "1", "--method", "classifier", "--out", tmp_path / "grid.png").code == 0


@pytest.mark.slow
def test_while_a_deletion_is_under_way_no_classifier_serves(copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "grid.png"
    lethe(copied, "generate", "--num", "1", "--method", "classifier", "--out", out)
    request = signed_request(copied, tmp_path / "requests", owner_ids=[owners_of(0, 1)[0].owner_id])
    # Cut short when stopped, with the data still there; then with the data gone and all retrained, but nothing promoted.
    for step in ("remove_samples", "commit_training"):
        with monkeypatch.context() as patch:
            patch.setattr(forgetting, step, cut_short)
            with pytest.raises(PowerCut):
                lethe(copied, "submit", request)
        out.unlink(missing_ok=True)
        told = lethe(copied, "generate", "--num", "1", "--method", "classifier", "--out", out)
        assert (told.code, out.exists()) == (1, False)
        assert "classifier: the model that serves is not of today's samples" in told.err
    assert len(list((copied.cache / "classifiers").iterdir())) == 2  # the old one, named by samples that nobody asks for, and today's
    assert lethe(copied, "submit", request).document["status"] == "completed"
    (today,) = (copied.cache / "classifiers").iterdir()
    assert recorded_classifiers(copied) == [sha256_digest(today.read_bytes())]


class PowerCut(BaseException):
    """Nothing catches it."""


def cut_short(*arguments: object, **named: object) -> None:
    raise PowerCut


def recorded_classifiers(ws: Workspace) -> list[object]:
    """What the decisions' records name."""
    predicates = [statement.predicate for statement in verify_chain(load_records(ws), [workspace_key(ws)])]
    return [predicate["classifier"] for predicate in predicates if "classifier" in predicate]


def test_a_method_that_is_not_local_cannot_be_the_default(copied: Workspace) -> None:
    path = copied.root / "params.yaml"
    path.write_text(path.read_text().replace("method: shard_per_image", "method: classifier"))
    assert "sampling.method: classifier is not local, so it can't serve by default" in lethe(copied, "build").err
