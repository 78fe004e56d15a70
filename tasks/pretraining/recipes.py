"""The recipes behind `lethe pretrain`: what made the shipped weights, from the public corpus alone.

Each writes into a folder of its own: the weights in their shipped form, `metrics.json`, an MLflow store with the loss curve, and
(backbone) `state.safetensors`, from which a stopped run goes on. Nothing is installed: to ship new weights, copy them into
`cdm_core/weights/` and measure them anew.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from cdm_core.backbone import BACKBONE_FOLDER, build_network, read_network_config
from cdm_core.clip import CLIP_FOLDER, Clip, build_clip, load_clip, pack_merges
from cdm_core.pretraining.backbone import BackboneTrainer, BackboneTrainingConfig, BackboneTrainingData
from cdm_core.pretraining.clip import ClipTrainingConfig, learn_merges, train_clip
from cdm_core.pretraining.measures import Retrieval, measure_retrieval
from tasks.files import write_atomically
from tasks.pretraining.public_corpus import PublicCorpus, load_public_corpus
from tasks.pretraining.training_history import LOSS, training_run

Report = Callable[[int, float], None]
"""Called with (pictures seen, loss) as training goes on."""

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
STATE_FILE = "state.safetensors"
_SAVE_EVERY_SECONDS = 120
_LOG_EVERY_STEPS = 20
_RECENT_STEPS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneProgress:
    """Training pictures seen so far, with repetition, and the mean loss of the last steps."""

    pictures_seen: int
    loss: float


def pretrain_clip(corpus_folder: Path, output: Path, config: ClipTrainingConfig, report: Report) -> Retrieval:
    """Train the CLIP model; returns its retrieval figures on the held-out emoji."""
    corpus = load_public_corpus(corpus_folder)
    data = corpus.pairs(held_out=False)
    output.mkdir(parents=True, exist_ok=True)
    model_config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_bytes())
    _write_json(output / "open_clip_config.json", model_config)
    vocabulary_size = model_config["model_cfg"]["text_cfg"]["vocab_size"]
    write_atomically(output / "bpe_merges.txt.gz", pack_merges(learn_merges(data.captions + data.short_captions, vocabulary_size)))
    torch.manual_seed(config.seed)
    clip = build_clip(model_config, output / "bpe_merges.txt.gz")
    with training_run(output, "pretrain clip", asdict(config)) as log:
        for step, loss in enumerate(train_clip(clip, data, config)):
            report((step + 1) * config.batch_emoji, loss)
            if step % _LOG_EVERY_STEPS == 0:
                log(LOSS, loss, step)
        write_atomically(output / "open_clip_model.safetensors", save(_in_half_precision(clip.model.state_dict())))
        figures = measure_retrieval(load_clip(output), corpus.pairs(held_out=True))
        for name, value in asdict(figures).items():
            log(name, value, config.num_steps)
    _write_json(output / "metrics.json", asdict(figures))
    return figures


def pretrain_backbone(
    corpus_folder: Path, output: Path, *, minutes: float, config: BackboneTrainingConfig, report: Report, clip_folder: Path = CLIP_FOLDER
) -> BackboneProgress:
    """Train, or go on training, for `minutes`, one step at least."""
    output.mkdir(parents=True, exist_ok=True)
    network_config = read_network_config(BACKBONE_FOLDER)
    data = _token_tables(load_public_corpus(corpus_folder), load_clip(clip_folder))
    torch.manual_seed(config.seed)
    trainer = BackboneTrainer(build_network(network_config), data, config)
    if (output / STATE_FILE).is_file():
        trainer.restore(load_file(output / STATE_FILE))
    started = saved = time.monotonic()
    losses: list[float] = []
    with training_run(output, "pretrain backbone", asdict(config)) as log:
        for loss in trainer.run():
            losses.append(loss)
            report(trainer.num_pictures_seen, loss)
            if len(losses) % _LOG_EVERY_STEPS == 0:
                log(LOSS, _mean(losses[-_LOG_EVERY_STEPS:]), trainer.step)
            if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                _save_backbone(trainer, network_config, output)
                saved = time.monotonic()
            if time.monotonic() - started > minutes * 60:
                break
        log(LOSS, _mean(losses[-_LOG_EVERY_STEPS:]), trainer.step)
        _save_backbone(trainer, network_config, output)
    progress = BackboneProgress(pictures_seen=trainer.num_pictures_seen, loss=_mean(losses[-_RECENT_STEPS:]))
    _write_json(output / "metrics.json", asdict(progress))
    return progress


def _token_tables(corpus: PublicCorpus, clip: Clip) -> BackboneTrainingData:
    rows = corpus.rows(held_out=False)
    table = corpus.table.iloc[rows]
    tokens, short_tokens = (clip.encode_tokens(table[column].tolist()) for column in ("caption", "short_caption"))
    return BackboneTrainingData(
        pictures=corpus.pictures[rows], tokens=tokens, short_tokens=short_tokens, empty_tokens=clip.encode_tokens([""])
    )


def _save_backbone(trainer: BackboneTrainer, network_config: dict[str, object], output: Path) -> None:
    """The state to go on from, and the averaged weights as a diffusers folder in half precision."""
    write_atomically(output / STATE_FILE, save(trainer.state()))
    _write_json(output / "config.json", network_config)
    write_atomically(output / WEIGHTS_FILE, save(_in_half_precision(trainer.ema)))


def _in_half_precision(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors as float16, the others as they are."""
    return {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in tensors.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
