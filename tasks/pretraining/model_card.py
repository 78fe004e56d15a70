"""The model card of the shipped weights: every figure in it is written by the command that measures.

`lethe pretrain measure --out cdm_core/weights` writes `MODEL_CARD.md` there and, in its folder `card`, `figures.json`, the sample grid
and the loss curve.
"""

import io
import json
from pathlib import Path

from matplotlib.figure import Figure

from cdm_core.evaluation.picture_grid import build_grid
from cdm_core.pretraining.clip import ClipTrainingConfig
from tasks.files import write_atomically
from tasks.pretraining.training_history import TrainingHistory
from tasks.pretraining.weight_measures import Measured, TrainingRecord

CARD = "MODEL_CARD.md"
_PICTURES_FOLDER = "card"
_GRID_PICTURES = 32
_GRID_COLUMNS = 8
_GRID_SCALE = 4


def write_model_card(output: Path, measured: Measured) -> list[Path]:
    """Write the card and what it shows; returns the files."""
    files = {
        output / _PICTURES_FOLDER / "figures.json": (json.dumps(measured.figures(), indent=2) + "\n").encode(),
        output / _PICTURES_FOLDER / "samples.png": build_grid(measured.pictures[:_GRID_PICTURES], _GRID_COLUMNS, _GRID_SCALE),
        output / CARD: render_card(measured).encode(),
    }
    if measured.training:
        files[output / _PICTURES_FOLDER / "loss_curve.png"] = draw_loss_curve(measured.training.history)
    for path, content in files.items():
        write_atomically(path, content)
    return list(files)


def draw_loss_curve(history: TrainingHistory) -> bytes:
    """The loss over pictures seen, as PNG; each logged point is a mean over some steps."""
    seen = [step * history.batch_size for step, _ in history.losses]
    losses = [loss for _, loss in history.losses]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(seen, losses, linewidth=1)
    axes.set(xlabel="training pictures seen", ylabel="velocity error", title="Backbone: training loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def render_card(measured: Measured) -> str:
    """The card, as markdown."""
    return "\n\n".join([_INTRODUCTION, _data(measured), _clip(measured), _backbone(measured), _LIMITS]) + "\n"


_INTRODUCTION = """# Model card: the public CLIP model and backbone

`clip/` is an open_clip model and `backbone/` a diffusers `UNet2DConditionModel` for pictures of 32×32 pixels. Both were trained from
nothing, on the CPU, on the public emoji pictures named below and on nothing else: no owner's picture is in them, so neither changes when
an owner withdraws. They are published under Apache 2.0, the licence of this project.

This file is written by `lethe pretrain measure`; its numbers are in [figures.json](card/figures.json)."""

_LIMITS = """## Limits

- Emoji-like drawings of 32×32 pixels, asked for by short English names. It draws nothing else well, and many a held-out name badly.
- The public corpus is small. How much of it the backbone has memorised was not measured; the two errors above show only how much
  harder unseen pictures are.
- Held out means an emoji that was not trained on. Its relatives were: other faces, hands, flags and clock faces.
- The halves behind the Fréchet distances share emoji in other skin tones and from the other vendor, so "other held-out pictures" is a
  flattering anchor. Distances of so few pictures are biased upward; they compare with each other and with nothing else, least of all
  with distances in InceptionV3 features.
- Retrieval counts another skin tone of the right emoji as wrong. EfficientNet-Lite0 was trained on a million photographs and was never
  shown an emoji; CLIP was trained on emoji. The comparison says that CLIP fits its purpose, not that it is the better network.
- Names and drawings carry their vendors' choices, for example of which skin tone an emoji has when none is named."""


def _data(measured: Measured) -> str:
    corpus = measured.corpus
    return f"""## Data

| pictures | npm package | licence |
|---|---|---|
| Noto Emoji, Google | `emoji-datasource-google` {corpus.versions["google"]} | Apache 2.0 |
| Twemoji, Twitter, Inc. and other contributors | `emoji-datasource-twitter` {corpus.versions["twitter"]} | CC BY 4.0 |

Names and short names are those of the packages (MIT). Pictures were put on white and averaged down to 32×32.

One emoji in ten is held out, by a hash of its code points: all its skin tones and both vendors' drawings of it are on the same side.
{corpus.training_pictures:,} pictures were trained on, {corpus.held_out_pictures:,} are held out."""


def _clip(measured: Measured) -> str:
    figures, recipe = measured.retrieval, ClipTrainingConfig()
    pairs, chance = measured.corpus.training_pairs, _percent(figures.chance)
    return f"""## CLIP

Recipe: `lethe pretrain clip`; {recipe.num_steps} steps of {recipe.batch_emoji} emoji, out of {pairs:,} that both vendors draw. Stored in
half precision. How often is the nearest of the {figures.num_emoji} held-out emoji, skin tones counted apart, the right one?

| | CLIP | EfficientNet-Lite0 features | chance |
|---|---|---|---|
| Noto picture → Twemoji picture | {_percent(figures.image_to_image)} | {_percent(measured.lite0_image_to_image)} | {chance} |
| Noto picture → name | {_percent(figures.image_to_text_noto)} | – | {chance} |
| Twemoji picture → name | {_percent(figures.image_to_text_twemoji)} | – | {chance} |"""


def _backbone(measured: Measured) -> str:
    distances, num = measured.distances, measured.distances.num_pictures
    captions = measured.captions[:_GRID_PICTURES]
    starts = range(0, len(captions), _GRID_COLUMNS)
    rows = "\n".join(f"{row}. {' · '.join(captions[start : start + _GRID_COLUMNS])}" for row, start in enumerate(starts, start=1))
    return f"""## Backbone

Recipe: `lethe pretrain backbone`; velocity matching on the linear path, conditioned on the CLIP text tower's tokens. What is shipped is
the average of the weights over the last steps, in half precision.

{_training(measured.training)}

Velocity error on fixed noise: {measured.loss_held_out:.4f} on the held-out pictures, {measured.loss_training:.4f} on as many
pictures that it was trained on.

Fréchet distances in EfficientNet-Lite0 features (112 px) of {num} pictures a row to the same {num} held-out pictures; generated with
{measured.sampling_steps} Euler steps from the captions of the other held-out pictures, picture k from seed k:

| pictures | Fréchet distance |
|---|---|
| other held-out pictures | {distances.real:.0f} |
| generated | {distances.generated:.0f} |
| noise, where sampling starts | {distances.noise:.0f} |

![Generated pictures](card/samples.png)

Asked for, row by row:

{rows}"""


def _training(training: TrainingRecord | None) -> str:
    if training is None:
        return "How long it was trained is not recorded here."
    steps = f"{training.steps:,} steps of {training.history.batch_size}"
    return f"""Trained for {steps}: {training.pictures_seen:,} pictures seen, with repetition.

![Training loss](card/loss_curve.png)"""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
