"""Measuring the shipped weights on the held-out side of the public corpus: what the model card says comes from here.

Everything is fixed by the weights, the corpus and `num`: no draw depends on a clock or on what was measured before.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from cdm_core.backbone import BACKBONE_FOLDER, load_backbone
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import InvalidInputError
from cdm_core.evaluation.features import load_efficientnet_lite0
from cdm_core.pretraining.measures import (
    Distances,
    Retrieval,
    generate_pictures,
    measure_distances,
    measure_image_retrieval,
    measure_retrieval,
    split_in_halves,
)
from cdm_core.settings import parse_settings
from cdm_core.training import StageSamples, compute_denoising_loss
from tasks.data.shipped import shipped_file
from tasks.pretraining.public_corpus import PublicCorpus, load_public_corpus
from tasks.pretraining.recipes import STATE_FILE, WEIGHTS_FILE
from tasks.pretraining.training_history import TrainingHistory, read_history

LOSS_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCounts:
    """The corpus that was measured on: package versions by vendor, and how many pictures are on which side of the split."""

    versions: dict[str, str]
    training_pictures: int
    training_pairs: int
    held_out_pictures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """How the backbone's weights came about, read from the folder that `lethe pretrain backbone` wrote."""

    history: TrainingHistory
    steps: int

    @property
    def pictures_seen(self) -> int:
        """Training pictures, with repetition."""
        return self.steps * self.history.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All figures, and the pictures that were generated for them, uint8 [n, 3, 32, 32], with their captions."""

    weights: Digest
    corpus: CorpusCounts
    retrieval: Retrieval
    lite0_image_to_image: float
    loss_training: float
    loss_held_out: float
    distances: Distances
    sampling_steps: int
    training: TrainingRecord | None
    captions: list[str]
    pictures: torch.Tensor

    def figures(self) -> dict[str, object]:
        """The numbers, for `figures.json`."""
        steps = {"steps": self.training.steps, "pictures_seen": self.training.pictures_seen} if self.training else {}
        return {
            "weights": self.weights,
            "corpus": asdict(self.corpus),
            "clip": {**asdict(self.retrieval), "lite0_image_to_image": self.lite0_image_to_image},
            "backbone": {
                **steps,
                "loss_training": self.loss_training,
                "loss_held_out": self.loss_held_out,
                "sampling_steps": self.sampling_steps,
                "frechet_distance": asdict(self.distances),
            },
        }


def measure_shipped_weights(
    corpus_folder: Path, training_folder: Path | None, num: int | None, on_pictures: Callable[[int], None]
) -> Measured:
    """Measure.

    Args:
        corpus_folder: holds both vendors' packages.
        training_folder: where `lethe pretrain backbone` wrote the weights that are shipped; None: nothing is said of their training.
        num: pictures in each Fréchet distance; None: half of the held-out ones.
        on_pictures: called with how many more pictures have been generated.

    Raises:
        InvalidInputError: the corpus is incomplete or too small for `num`, or the training folder isn't that of the shipped weights.
    """
    training = _read_training(training_folder) if training_folder else None
    corpus = load_public_corpus(corpus_folder)
    held_out = corpus.samples(held_out=True)
    num = check_num(num, held_out)
    backbone, extractor = load_backbone(), load_efficientnet_lite0()
    sampling = parse_settings(shipped_file("params.yaml").read_bytes(), "params.yaml").sampling
    pairs = corpus.pairs(held_out=True)
    first, second = split_in_halves(held_out, num)
    pictures = generate_pictures(backbone, first.captions, sampling, on_pictures)
    # As many training pictures as there are held-out ones, so that the two losses are equally precise.
    seen, _ = split_in_halves(corpus.samples(held_out=False), len(held_out.sample_ids))
    return Measured(
        weights=backbone.digest,
        corpus=_count(corpus),
        retrieval=measure_retrieval(backbone.clip, pairs),
        lite0_image_to_image=measure_image_retrieval(extractor, pairs),
        loss_training=compute_denoising_loss(backbone, backbone.network, seen, seed=LOSS_SEED),
        loss_held_out=compute_denoising_loss(backbone, backbone.network, held_out, seed=LOSS_SEED),
        distances=measure_distances(backbone, extractor, pictures, first.pictures, second.pictures),
        sampling_steps=sampling.steps,
        training=training,
        captions=first.captions,
        pictures=pictures,
    )


def check_num(num: int | None, held_out: StageSamples) -> int:
    """The number of pictures in each distance.

    Raises:
        InvalidInputError: the held-out pictures don't make two halves of so many.
    """
    most = len(held_out.sample_ids) // 2
    num = most if num is None else num
    if not 2 <= num <= most:
        raise InvalidInputError(f"--num {num}: must be 2 to {most}, half of the corpus's held-out pictures")
    return num


def _count(corpus: PublicCorpus) -> CorpusCounts:
    return CorpusCounts(
        versions=corpus.versions,
        training_pictures=len(corpus.rows(held_out=False)),
        training_pairs=len(corpus.pairs(held_out=False).captions),
        held_out_pictures=len(corpus.rows(held_out=True)),
    )


def _read_training(folder: Path) -> TrainingRecord:
    history = read_history(folder)
    weights, state = folder / WEIGHTS_FILE, folder / STATE_FILE
    for path in (weights, state):
        if not path.is_file():
            raise InvalidInputError(f"{path}: missing; give the folder that `lethe pretrain backbone` wrote")
    if sha256_digest(weights.read_bytes()) != sha256_digest((BACKBONE_FOLDER / WEIGHTS_FILE).read_bytes()):
        raise InvalidInputError(f"{weights}: not the weights that are shipped")
    with safe_open(state, framework="pt") as tensors:  # one number of 80 MB
        steps = int(tensors.get_tensor("step"))
    return TrainingRecord(history=history, steps=steps)
