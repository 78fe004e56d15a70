"""`lethe generate --prior`: a prompt goes to the shards that have it, by counts of captions or by CLIP, through the whole product."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from built_workspace import Built
from safetensors.torch import load_file
from tiny_workspace import OWNERS, lethe, set_parameters

from cdm_core.clip import load_clip
from cdm_core.composition.document import parse_composition
from cdm_core.composition.knn_weights import knn_weights
from cdm_core.composition.serving import CENTROIDS_NAME
from tasks.data.manifest_store import save_manifest
from tasks.models.compositions import centroid_files
from tasks.models.model_registry import champion, composition_of
from tasks.workspace import Workspace

SHARED = "thing nobody captioned so"


def makers(ws: Workspace, out: Path, *options: str | Path, num: int = 8) -> list[int | None]:
    document = lethe(ws, "generate", "--num", str(num), "--out", out, *options).document
    return [picture["shard"] for picture in document["per_image"]]


@pytest.mark.slow
def test_a_caption_goes_to_the_shards_that_have_it(built: Built, tmp_path: Path) -> None:
    captions = {
        caption: Counter(o.shard for o in OWNERS for p in o.pictures if p.caption == caption)
        for caption in {p.caption for o in OWNERS for p in o.pictures}
    }
    caption, holders = min(captions.items())
    assert len(holders) == 1, "every colour is one owner's"
    made = makers(built.ws, tmp_path / "grid.png", "--prompt", caption, "--prior", "captions")
    assert set(made) == set(holders)
    # The canary: by counts others have a share, and a caption that nobody has falls back on them.
    counted = makers(built.ws, tmp_path / "grid.png", "--prompt", caption)
    assert set(counted) - set(holders)
    assert makers(built.ws, tmp_path / "grid.png", "--prompt", SHARED, "--prior", "captions") == counted


@pytest.mark.slow
def test_a_free_prompt_goes_by_its_distance_to_the_centroids(copied: Workspace, tmp_path: Path) -> None:
    options = ("--prompt", "a crimson thing", "--prior", "clip")
    serving = champion(copied)
    assert serving is not None
    composition = parse_composition(composition_of(copied, serving.version))
    files = centroid_files(copied, composition)
    centroids = [load_file(files[shard])[CENTROIDS_NAME] for shard in composition.shards]
    counts = torch.tensor([float(expert.samples) for expert in composition.experts])
    (weights,) = knn_weights(load_clip().embed_captions(["a crimson thing"]), centroids, counts, composition.knn_temperature).tolist()
    made = makers(copied, tmp_path / "grid.png", *options, num=24)
    assert made != makers(copied, tmp_path / "other.png", "--prompt", "a crimson thing", num=24)
    shares = [made.count(shard) / len(made) for shard in composition.shards]
    assert sum(abs(share - weight) for share, weight in zip(shares, weights, strict=True)) / 2 < 0.25  # 24 draws
    # Without a shard's centroids there is no such prior, and it says so.
    files[1].unlink()
    told = lethe(copied, "generate", "--num", "1", "--out", tmp_path / "no.png", *options)
    assert (told.code, told.err.startswith("lethe: centroids of shard 1: no file for digest ")) == (1, True)


def test_captions_of_a_shard_that_serves_other_samples_are_not_counted(copied: Workspace, tmp_path: Path) -> None:
    from tasks.data.manifest_store import load_manifest

    save_manifest(copied, 1, load_manifest(copied, 1).iloc[1:].reset_index(drop=True))
    options = ("--prompt", "navy thing 0", "--prior", "captions")
    told = lethe(copied, "generate", "--num", "1", "--out", tmp_path / "no.png", *options)
    assert (told.code, told.out) == (1, "")
    assert told.err == "lethe: prior captions: the model that serves is not of today's samples; wait for the flow, or use another prior\n"
    # Shards that aren't asked for aren't looked at.
    assert makers(copied, tmp_path / "grid.png", *options, "--shards", "0,2", num=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prior", "guess"), "prior 'guess' is not one of counts, captions, clip"),
        (("--prior", "clip", "--method", "average"), "prior clip: method average has no such thing; shard_per_image, knn, bayes do"),
    ],
)
def test_what_is_no_prior_is_told(built: Built, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ran = lethe(built.ws, "generate", "--num", "1", "--out", tmp_path / "grid.png", *options)
    assert (ran.code, ran.err) == (1, f"lethe: {message}\n")


def test_captions_cannot_be_the_default(copied: Workspace) -> None:
    add_prior(copied, "captions")
    assert "sampling.prior: captions are no part of a model, so it can't serve by default" in lethe(copied, "build").err


@pytest.mark.slow
def test_a_model_is_built_judged_and_served_with_clip_priors(copied: Workspace, tmp_path: Path) -> None:
    add_prior(copied, "clip")
    assert lethe(copied, "build").document["model_version"] == 2
    document = lethe(copied, "generate", "--num", "4", "--prompt", "a crimson thing", "--out", tmp_path / "grid.png").document
    assert document["prior"] == "clip"
    assert {picture["shard"] for picture in document["per_image"]} <= {0, 1, 2}


def add_prior(ws: Workspace, prior: str) -> None:
    set_parameters(ws, method=f"shard_per_image\n  prior: {prior}")
