"""The recipes on a corpus of a few plain pictures: that they write what is shipped, go on where they stopped, and can be measured."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_corpus import make_tiny_corpus

from cdm_core.backbone import BACKBONE_FOLDER, compute_backbone_digest, load_backbone
from cdm_core.clip import CLIP_FOLDER, load_clip
from cdm_core.errors import InvalidInputError
from flows.pretrain import run_measure, run_pretrain_backbone, run_pretrain_clip
from tasks.pretraining.recipes import STATE_FILE, WEIGHTS_FILE
from tasks.pretraining.training_history import read_history


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one short backbone run."""
    folder = tmp_path_factory.mktemp("backbone")
    run_pretrain_backbone(corpus, folder, minutes=0.01)
    return folder


def test_clip_is_written_in_the_form_that_is_shipped(corpus: Path, tmp_path: Path) -> None:
    document = run_pretrain_clip(corpus, tmp_path, steps=2)
    assert document["steps"] == 2
    assert document["num_emoji"] == 4
    assert document["chance"] == 0.25
    assert load_clip(tmp_path).embed_captions(["thing number 1"]).shape == (1, 128)
    shipped, ours = (load_file(folder / "open_clip_model.safetensors") for folder in (CLIP_FOLDER, tmp_path))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in shipped.items()
    }
    assert json.loads((tmp_path / "metrics.json").read_text())["image_to_image"] == document["image_to_image"]


def test_the_backbone_is_written_in_the_form_that_is_shipped(trained: Path) -> None:
    network = load_backbone(trained).network
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
        name: tensor.shape for name, tensor in load_backbone().network.state_dict().items()
    }
    assert load_file(trained / WEIGHTS_FILE)["conv_in.weight"].dtype == torch.float16


def test_a_stopped_backbone_goes_on(corpus: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = json.loads((folder / "metrics.json").read_text())["pictures_seen"]
    document = run_pretrain_backbone(corpus, folder, minutes=0.0001)
    assert document["pictures_seen"] == before + 64
    steps = [step for step, _ in read_history(folder).losses]
    assert steps[-1] == document["pictures_seen"] / 64


def test_measuring_writes_the_card(corpus: Path, trained: Path, tmp_path: Path) -> None:
    training = tmp_path / "training"
    shutil.copytree(trained, training)
    # As if this run had made the shipped weights: only their history may be told.
    shutil.copyfile(BACKBONE_FOLDER / WEIGHTS_FILE, training / WEIGHTS_FILE)
    out = tmp_path / "out"
    document = run_measure(corpus, out, training, num=3)
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "MODEL_CARD.md",
        "figures.json",
        "samples.png",
        "loss_curve.png",
    }
    figures = json.loads((out / "card" / "figures.json").read_text())
    assert document == {**figures, "files": document["files"]}
    assert figures["weights"] == compute_backbone_digest(BACKBONE_FOLDER)
    assert figures["corpus"] == {
        "versions": {"google": "16.0.0", "twitter": "16.0.0"},
        "training_pictures": 26,
        "training_pairs": 13,
        "held_out_pictures": 8,
    }
    assert figures["backbone"]["frechet_distance"]["num_pictures"] == 3
    card = (out / "MODEL_CARD.md").read_text()
    assert f"{figures['backbone']['pictures_seen']:,} pictures seen" in card
    assert f"| generated | {figures['backbone']['frechet_distance']['generated']:.0f} |" in card
    assert "card/loss_curve.png" in card


def test_the_history_of_other_weights_is_refused(corpus: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"diffusion_pytorch_model\.safetensors: not the weights that are shipped"):
        run_measure(corpus, tmp_path, trained)
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    (folder / STATE_FILE).unlink()
    with pytest.raises(InvalidInputError, match=r"state\.safetensors: missing; give the folder that `lethe pretrain backbone` wrote"):
        run_measure(corpus, tmp_path, folder)


@pytest.mark.parametrize("num", [1, 5])
def test_more_pictures_than_are_held_out_are_refused(corpus: Path, tmp_path: Path, num: int) -> None:
    with pytest.raises(InvalidInputError, match=f"--num {num}: must be 2 to 4, half of the corpus's held-out pictures"):
        run_measure(corpus, tmp_path, num=num)
