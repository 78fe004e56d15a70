"""The recipes behind `lethe pretrain`: what made the shipped weights, from the public corpus alone.

Each writes into a folder of its own: the weights in their shipped form, `metrics.json` for the model card, an MLflow store with the
loss curve, and (backbone) `state.safetensors`, from which a stopped run goes on. Nothing is installed: to ship new weights, copy
them into `cdm_core/weights/`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file, save

from cdm_core.backbone import BACKBONE_FOLDER, build_network, read_network_config
from cdm_core.clip import CLIP_FOLDER, Clip, build_clip, load_clip, pack_merges
from cdm_core.pretraining.backbone import BackboneTrainer, BackboneTrainingConfig, BackboneTrainingData
from cdm_core.pretraining.clip import ClipTrainingConfig, ClipTrainingData, learn_merges, train_clip
from tasks.public_corpus import PublicCorpus, load_public_corpus

Report = Callable[[int, float], None]
"""Called with (pictures seen, loss) as training goes on."""

_SAVE_EVERY_SECONDS = 120
_LOG_EVERY_STEPS = 20


def pretrain_clip(corpus_folder: Path, output: Path, config: ClipTrainingConfig, report: Report) -> dict[str, float]:
    """Train the CLIP model; returns its retrieval figures on the held-out emoji."""
    corpus = load_public_corpus(corpus_folder)
    data = _paired(corpus, held_out=False)
    output.mkdir(parents=True, exist_ok=True)
    model_config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_bytes())
    _write(output / "open_clip_config.json", json.dumps(model_config, indent=2).encode())
    vocabulary_size = model_config["model_cfg"]["text_cfg"]["vocab_size"]
    _write(output / "bpe_merges.txt.gz", pack_merges(learn_merges(data.captions + data.short_captions, vocabulary_size)))
    torch.manual_seed(config.seed)
    clip = build_clip(model_config, output / "bpe_merges.txt.gz")
    with _mlflow_run(output, "pretrain clip", asdict(config)) as log:
        for step, loss in enumerate(train_clip(clip, data, config)):
            report((step + 1) * config.batch_emoji, loss)
            if step % _LOG_EVERY_STEPS == 0:
                log("loss", loss, step)
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in clip.model.state_dict().items()}
        _write(output / "open_clip_model.safetensors", save({name: tensor.contiguous() for name, tensor in half.items()}))
        figures = measure_retrieval(load_clip(output), _paired(corpus, held_out=True))
        for name, value in figures.items():
            log(name, value, config.num_steps)
    _write(output / "metrics.json", json.dumps(figures, indent=2).encode())
    return figures


def measure_retrieval(clip: Clip, data: ClipTrainingData) -> dict[str, float]:
    """Top-1 retrieval among all held-out emoji: Noto → Twemoji picture, and each vendor's picture → name; chance beside it."""
    first, second = (clip.embed_pictures(view.float() / 127.5 - 1) for view in (data.first_vendor, data.second_vendor))
    text = clip.embed_captions(data.captions)
    return {
        "num_emoji": float(len(data.captions)),
        "chance": 1 / len(data.captions),
        "image_to_image": retrieval_at_1(first, second),
        "image_to_text_noto": retrieval_at_1(first, text),
        "image_to_text_twemoji": retrieval_at_1(second, text),
    }


def retrieval_at_1(queries: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of rows [N, D] whose nearest target by inner product is the row of the same number."""
    return ((queries @ targets.T).argmax(dim=1) == torch.arange(len(queries))).float().mean().item()


def pretrain_backbone(
    corpus_folder: Path, output: Path, *, minutes: float, config: BackboneTrainingConfig, report: Report, clip_folder: Path = CLIP_FOLDER
) -> dict[str, float]:
    """Train, or go on training, for `minutes`; returns pictures seen and the mean loss of the last stretch."""
    output.mkdir(parents=True, exist_ok=True)
    network_config = read_network_config(BACKBONE_FOLDER)
    torch.manual_seed(config.seed)
    trainer = BackboneTrainer(build_network(network_config), _token_tables(load_public_corpus(corpus_folder), load_clip(clip_folder)), config)
    state = output / "state.safetensors"
    if state.is_file():
        trainer.restore(load_file(state))
    started = saved = time.monotonic()
    losses: list[float] = []
    with _mlflow_run(output, "pretrain backbone", asdict(config)) as log:
        for loss in trainer.run():
            losses.append(loss)
            report(trainer.num_pictures_seen, loss)
            if len(losses) % _LOG_EVERY_STEPS == 0:
                log("loss", sum(losses[-_LOG_EVERY_STEPS:]) / _LOG_EVERY_STEPS, trainer.step)
            if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                _save_backbone(trainer, network_config, output)
                saved = time.monotonic()
            if time.monotonic() - started > minutes * 60:
                break
        _save_backbone(trainer, network_config, output)
    recent = losses[-500:]
    return {"pictures_seen": float(trainer.num_pictures_seen), "loss": sum(recent) / len(recent)}


def _token_tables(corpus: PublicCorpus, clip: Clip) -> BackboneTrainingData:
    rows = corpus.rows(held_out=False)
    table = corpus.table.iloc[rows]
    tokens, short_tokens = (clip.encode_tokens(table[column].tolist()) for column in ("caption", "short_caption"))
    return BackboneTrainingData(
        pictures=corpus.pictures[rows], tokens=tokens, short_tokens=short_tokens, empty_tokens=clip.encode_tokens([""])
    )


def _paired(corpus: PublicCorpus, *, held_out: bool) -> ClipTrainingData:
    table = corpus.table.reset_index(names="row")
    table = table[table["held_out"] == held_out]
    noto, twemoji = (table[table["vendor"] == vendor].set_index("unified") for vendor in ("google", "twitter"))
    common = noto.index.intersection(twemoji.index)
    noto, twemoji = noto.loc[common], twemoji.loc[common]
    return ClipTrainingData(
        first_vendor=corpus.pictures[noto["row"].to_numpy()],
        second_vendor=corpus.pictures[twemoji["row"].to_numpy()],
        captions=noto["caption"].tolist(),
        short_captions=noto["short_caption"].tolist(),
    )


def _save_backbone(trainer: BackboneTrainer, network_config: dict[str, object], output: Path) -> None:
    """The state to go on from, and the averaged weights as a diffusers folder in half precision."""
    _write(output / "state.safetensors", save(trainer.state()))
    _write(output / "config.json", json.dumps(network_config, indent=2).encode())
    half = {name: tensor.half().contiguous() for name, tensor in trainer.ema.items()}
    _write(output / "diffusion_pytorch_model.safetensors", save(half))


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    os.replace(beside, path)


@contextmanager
def _mlflow_run(output: Path, name: str, parameters: dict[str, object]) -> Iterator[Callable[[str, float, int], None]]:
    """A run in the folder's own MLflow store; yields log(metric, value, step)."""
    client = MlflowClient(tracking_uri=f"sqlite:///{output.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("pretraining")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("pretraining", f"{output.resolve()}/artifacts")
    run_id = client.create_run(experiment_id, run_name=name).info.run_id
    for parameter, value in parameters.items():
        client.log_param(run_id, parameter, value)

    def log(metric: str, value: float, step: int) -> None:
        client.log_metric(run_id, metric, value, step=step)

    try:
        yield log
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
