"""The model card: that it says what was measured, and that the one which is shipped is about the weights that are shipped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdm_core.backbone import BACKBONE_FOLDER, compute_backbone_digest
from cdm_core.digests import Digest
from cdm_core.pretraining.measures import Distances, Retrieval
from tasks.pretraining.model_card import draw_loss_curve, render_card, write_model_card
from tasks.pretraining.training_history import TrainingHistory
from tasks.pretraining.weight_measures import CorpusCounts, Measured, TrainingRecord

SHIPPED = BACKBONE_FOLDER.parent

MEASURED = Measured(
    weights=Digest("0" * 64),
    corpus=CorpusCounts(
        versions={"google": "1.2.3", "twitter": "4.5.6"}, training_pictures=6_720, training_pairs=3_360, held_out_pictures=852
    ),
    retrieval=Retrieval(num_emoji=426, chance=1 / 426, image_to_image=0.5, image_to_text_noto=0.25, image_to_text_twemoji=0.75),
    lite0_image_to_image=0.375,
    loss_training=0.125,
    loss_held_out=0.1875,
    distances=Distances(num_pictures=77, real=61.4, generated=400.0, noise=809.6),
    sampling_steps=12,
    training=TrainingRecord(history=TrainingHistory(losses=((20, 2.0), (40, 1.0)), batch_size=64), steps=4_000),
    captions=[f"thing {number}" for number in range(40)],
    pictures=torch.zeros(40, 3, 32, 32, dtype=torch.uint8),
)


def test_the_card_says_what_was_measured() -> None:
    card = render_card(MEASURED)
    for text in (
        "`emoji-datasource-google` 1.2.3 | Apache 2.0",
        "`emoji-datasource-twitter` 4.5.6 | CC BY 4.0",
        "6,720 pictures were trained on, 852 are held out",
        "| Noto picture → Twemoji picture | 50.0 % | 37.5 % | 0.2 % |",
        "| Noto picture → name | 25.0 % | – | 0.2 % |",
        "| Twemoji picture → name | 75.0 % | – | 0.2 % |",
        "Trained for 4,000 steps of 64: 256,000 pictures seen",
        "0.1875 on the held-out pictures, 0.1250 on as many",
        "of 77 pictures a row to the same 77 held-out pictures",
        "| other held-out pictures | 61 |",
        "| generated | 400 |",
        "| noise, where sampling starts | 810 |",
        "4. thing 24 · thing 25 · thing 26 · thing 27 · thing 28 · thing 29 · thing 30 · thing 31\n",
    ):
        assert text in card
    assert "thing 32" not in card


def test_without_a_training_folder_nothing_is_said_of_training(tmp_path: Path) -> None:
    untold = replace(MEASURED, training=None)
    assert "How long it was trained is not recorded here." in render_card(untold)
    assert "pictures_seen" not in json.dumps(untold.figures())
    assert {path.name for path in write_model_card(tmp_path, untold)} == {"MODEL_CARD.md", "figures.json", "samples.png"}
    assert "loss_curve" not in (tmp_path / "MODEL_CARD.md").read_text()


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    contents = [[path.read_bytes() for path in write_model_card(tmp_path / name, MEASURED)] for name in ("a", "b")]
    assert contents[0] == contents[1]


def test_the_loss_curve_is_a_picture_of_the_history() -> None:
    history = MEASURED.training.history if MEASURED.training else TrainingHistory(losses=(), batch_size=1)
    curve = draw_loss_curve(history)
    assert curve.startswith(b"\x89PNG")
    assert curve != draw_loss_curve(TrainingHistory(losses=((20, 1.0), (40, 2.0)), batch_size=64))


def test_the_shipped_card_is_about_the_shipped_weights() -> None:
    figures = json.loads((SHIPPED / "card" / "figures.json").read_bytes())
    assert figures["weights"] == compute_backbone_digest()
    assert figures["backbone"]["pictures_seen"] >= 250_000


@pytest.mark.parametrize("name", ["samples.png", "loss_curve.png"])
def test_the_shipped_card_shows_its_pictures(name: str) -> None:
    assert f"(card/{name})" in (SHIPPED / "MODEL_CARD.md").read_text()
    assert (SHIPPED / "card" / name).read_bytes().startswith(b"\x89PNG")
