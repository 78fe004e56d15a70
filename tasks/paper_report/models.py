"""The compositions that the report measures, from the adapters that it trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import sha256_digest
from cdm_core.methods.classifier import ClassifierSettings, classifier_key, classifier_to_bytes, train_classifier
from cdm_core.settings import STOCHASTIC_METHODS, Method, Settings
from cdm_core.sharding.manifests import samples_digest
from cdm_core.sharding.splits import Split
from tasks.paper_report.cache import ReportCache
from tasks.paper_report.experts import TrainedPart
from tasks.paper_report.references import References, write_centroids
from tasks.paper_report.samples import Model
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.training.shard_training import load_stage, shared_backbone, shared_backbone_digest
from tasks.training.workers import report_progress

COLUMNS: tuple[tuple[str, Method, bool], ...] = (
    ("shard_per_image", "shard_per_image", False),
    ("shard_per_image, CLIP prior", "shard_per_image", True),
    ("random", "random", False),
    ("average", "average", False),
    ("knn", "knn", False),
    ("top_k:knn", "top_k:knn", False),
    ("bayes", "bayes", False),
    ("classifier", "classifier", False),
)
"""The table's methods: name, method, and whether the prior is from CLIP. Cheap ones first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitModel:
    """A split's adapters, with its counts' prior and `shard_per_image`; `with_method` mixes them otherwise."""

    split: Split
    base: Model
    classifier: Path | None = None

    def with_method(self, method: Method, *, clip_prior: bool = False) -> Model:
        """The same experts."""
        composition = self.base.composition.with_method(method, sampler="ddpm" if method in STOCHASTIC_METHODS else None)
        if clip_prior:
            composition = composition.with_prior("clip")
        if method != "classifier":
            return Model(composition=composition, adapters=self.base.adapters, centroids=self.base.centroids)
        assert self.classifier is not None, "trained before it is used"
        composition = composition.with_classifier(sha256_digest(self.classifier.read_bytes()))
        return Model(composition=composition, adapters=self.base.adapters, centroids=self.base.centroids, classifier=self.classifier)

    def single(self, number: int) -> Model:
        """One of its experts alone."""
        return self.base.restricted_to([number])


def compose_split(
    cache: ReportCache, settings: Settings, references: References, split: Split, trained: Sequence[TrainedPart], classifier: Path | None
) -> SplitModel:
    """The split's model."""
    by_number = {part.number: part for part in trained}
    centroids = {part.number: write_centroids(cache, references, part, settings.knn.centroids) for part in split.parts}
    experts = tuple(
        Expert(
            shard=part.number,
            adapter=by_number[part.number].adapter,
            samples=by_number[part.number].samples,
            centroids=centroids[part.number][0],
        )
        for part in split.parts
    )
    sampling = settings.sampling.model_copy(update={"method": "shard_per_image", "prior": "counts", "sampler": "euler"})
    composition = Composition(
        backbone=shared_backbone_digest(), experts=experts, sampling=sampling, knn_temperature=settings.knn.temperature
    )
    model = Model(
        composition=composition,
        adapters={number: part.file for number, part in by_number.items()},
        centroids={number: path for number, (_, path) in centroids.items()},
    )
    return SplitModel(split=split, base=model, classifier=classifier)


def bare_model(split: SplitModel) -> Model:
    """The backbone alone."""
    return Model(composition=split.base.composition.restricted_to([]), adapters={}, centroids={})


def train_split_classifier(cache: ReportCache, rows: Mapping[int, pd.DataFrame], steps: int) -> Path:
    """Train, or find, the non-local method's network for a split. Reports "classifier steps". Run it in a process of one thread."""
    classifier = ClassifierSettings(steps=steps)
    digests = {number: samples_digest(frame) for number, frame in rows.items()}
    name = classifier_key(shared_backbone_digest(), digests, classifier, measure_own_fingerprint())
    path = cache.folder / "classifiers" / f"{name}.safetensors"
    if path.is_file():
        report_progress("classifier steps", steps)
        return path
    samples = {number: load_stage(cache.ws, frame) for number, frame in rows.items()}
    network = train_classifier(shared_backbone(), samples, classifier, on_step=lambda: report_progress("classifier steps"))
    cache.write(path, classifier_to_bytes(network, sorted(samples)))
    return path
