"""`lethe pretrain`: the recipes that made the shipped weights, and their measuring, with progress on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cdm_core.pretraining.backbone import BackboneTrainingConfig
from cdm_core.pretraining.clip import ClipTrainingConfig
from flows.console import progress_bars, stderr
from tasks.files import check_writable
from tasks.pretraining.model_card import CARD, write_model_card
from tasks.pretraining.recipes import WEIGHTS_FILE, pretrain_backbone, pretrain_clip
from tasks.pretraining.weight_measures import measure_shipped_weights

Document = dict[str, object]


def run_pretrain_clip(corpus: Path, out: Path, steps: int | None) -> Document:
    """Train the CLIP model and measure its retrieval on the held-out emoji."""
    check_writable(out / WEIGHTS_FILE)
    config = ClipTrainingConfig() if steps is None else ClipTrainingConfig(num_steps=steps)
    with _loss_bar(config.num_steps * config.batch_emoji) as advance:
        retrieval = pretrain_clip(corpus, out, config, lambda seen, loss: advance(seen, f"{seen:,} emoji seen, loss {loss:.3f}"))
    return {"out": str(out), "steps": config.num_steps, **asdict(retrieval)}


def run_pretrain_backbone(corpus: Path, out: Path, minutes: float) -> Document:
    """Train the backbone, or go on training it, for so many minutes."""
    check_writable(out / WEIGHTS_FILE)
    started = time.monotonic()
    with _loss_bar(minutes * 60) as advance:

        def report(seen: int, loss: float) -> None:
            advance(time.monotonic() - started, f"{seen:,} pictures seen, loss {loss:.3f}")

        progress = pretrain_backbone(corpus, out, minutes=minutes, config=BackboneTrainingConfig(), report=report)
    return {"out": str(out), **asdict(progress)}


def run_measure(corpus: Path, out: Path, training: Path | None = None, num: int | None = None) -> Document:
    """Measure the shipped weights and write their model card."""
    check_writable(out / CARD)
    with progress_bars({"pictures generated": None}) as advance:
        measured = measure_shipped_weights(corpus, training, num, lambda made: advance("pictures generated", made))
    files = write_model_card(out, measured)
    return {**measured.figures(), "files": [str(path) for path in files]}


@contextmanager
def _loss_bar(total: float) -> Iterator[Callable[[float, str], None]]:
    """A bar whose description tells the loss; yields advance(completed, description)."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr()) as progress:
        bar = progress.add_task("loading", total=total)
        yield lambda completed, description: progress.update(bar, completed=completed, description=description)
