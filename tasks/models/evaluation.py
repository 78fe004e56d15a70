"""Evaluating a composition: what changed is made anew, everything else comes from a cache.

Two caches, both by digest under the workspace's cache folder, both safe to delete:

- A shard's description (reference moments of its pictures' features, CLIP centroids), by the digest of its samples, made of what
  `tasks.models.seen_pictures` keeps of each picture.
- Generated pictures and features, by the digest of the smallest composition that makes them: under `shard_per_image` that is one expert,
  so a new composition costs only the shards whose adapter changed.

What is asked for depends on the manifests alone: picture k has a seed derived from k, which draws a shard by its number of samples
(exponential race) and one of that shard's distinct captions (lowest hash), each as likely however many samples bear it. So a deletion
changes the captions that came from it and no other. Both sides of a comparison get the same seeds and captions, and the same reference,
from which the deleted data is gone.

The shard is drawn from the very stream from which `shard_per_image` draws a picture's expert, so that over the same shards a picture's
caption is always one that its expert was trained on. That is a sample of the mixture of the shards' joint distributions of caption and
picture: a shard by its count, a caption of that shard, and a picture by its expert. It is kept since a deletion then changes the hit
shards' pictures alone: by a draw of its own a caption of the hit shard would be asked of untouched experts, too, and their pictures would
change with it. But a user's prompt has no such tie. The distances of `shard_per_image` therefore describe a router that knows which shard
a caption is from, as `--prior captions` would for captions of the data, and not one that draws the expert whatever the prompt.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save

from cdm_core.centroids import compute_centroids
from cdm_core.composition.document import Composition, Expert, parse_composition
from cdm_core.composition.mixing import draw_expert
from cdm_core.composition.sampling import NETWORK_BATCH
from cdm_core.composition.serving import CENTROIDS_NAME, ComposedModel, load_composed_model
from cdm_core.digests import Digest, derive_seed, json_digest, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.evaluation.frechet import build_frechet_reference
from cdm_core.evaluation.moments import Moments, compute_moments
from cdm_core.evaluation.quality_gate import GateResult, GeneratedFeatures, judge_quality
from cdm_core.settings import EvaluationSettings
from cdm_core.sharding.manifests import samples_digest
from tasks.data.manifest_store import load_manifest
from tasks.files import write_atomically
from tasks.locks import exclusive_lock
from tasks.models.seen_pictures import embed_shard, look_at_shard, seen_file, shared_extractor, shared_extractor_digest
from tasks.training.shard_training import shared_backbone, shared_backbone_digest
from tasks.training.workers import report_progress
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDescription:
    """Where a shard's reference moments, centroids (after each stage) and seen pictures lie, and the digest of the last centroids."""

    shard: int
    samples: int
    centroids: Digest
    centroids_files: tuple[Path, ...]
    moments_file: Path
    seen_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRequest:
    """One picture to be made for evaluation."""

    seed: int
    caption: str

    @property
    def key(self) -> Digest:
        """Names it within the cache of one composition."""
        return _picture_key(self.seed, self.caption)


@lru_cache(maxsize=4096)
def _picture_key(seed: int, caption: str) -> Digest:
    return json_digest({"seed": str(seed), "caption": caption})


def describe_shard(workspace: Workspace, shard: int) -> ShardDescription:
    """Compute, or find, a shard's reference moments and the centroids after each of its stages.

    Every stage's centroids are kept, since a stop composes with the checkpoint of an earlier stage and has no time to compute.
    Reports progress as "reference pictures".
    """
    settings, manifest = workspace.settings(), load_manifest(workspace, shard)
    weights = settings.evaluation.inception_weights
    moments_file = (
        workspace.cache / "shards" / f"{samples_digest(manifest)[:32]}-{shared_extractor_digest(weights)[:16]}.moments.safetensors"
    )
    prefixes = [prefix_rows(manifest, stage + 1) for stage in range(settings.stages)]
    centroids_files = tuple(centroids_file(workspace, rows) for rows in prefixes)
    if moments_file.is_file() and all(path.is_file() for path in centroids_files):
        report_progress("reference pictures", len(manifest))
    else:
        moments_file.parent.mkdir(parents=True, exist_ok=True)
        seen = look_at_shard(workspace, shard, manifest)
        for path, rows in zip(centroids_files, prefixes, strict=True):
            points = seen.embeddings[torch.from_numpy(manifest["stage"].isin(rows["stage"]).to_numpy(copy=True))]
            write_atomically(path, _centroids_to_bytes(workspace, shard, points))
        write_atomically(moments_file, compute_moments(seen.features).to_bytes())
    return ShardDescription(
        shard=shard,
        samples=len(manifest),
        centroids=sha256_digest(centroids_files[-1].read_bytes()),
        centroids_files=centroids_files,
        moments_file=moments_file,
        seen_file=seen_file(workspace, shard, manifest),
    )


def recompute_centroids(workspace: Workspace, shard: int) -> Digest:
    """The digest of the centroids after a shard's last stage, from its pictures, whatever the cache holds."""
    points = embed_shard(workspace, load_manifest(workspace, shard))
    return sha256_digest(_centroids_to_bytes(workspace, shard, points))


def _centroids_to_bytes(workspace: Workspace, shard: int, points: torch.Tensor) -> bytes:
    num = workspace.settings().knn.centroids
    return save({CENTROIDS_NAME: compute_centroids(points, num, derive_seed("centroids", shard)) if len(points) else points})


def centroids_file(workspace: Workspace, rows: pd.DataFrame) -> Path:
    """Where the centroids of these samples lie, as the installed CLIP sees them."""
    embedding = json_digest({"knn": workspace.settings().knn.model_dump(), "backbone": shared_backbone_digest()})
    return workspace.cache / "shards" / f"{samples_digest(rows)[:32]}-{embedding[:16]}.centroids.safetensors"


def prefix_rows(manifest: pd.DataFrame, num_stages: int) -> pd.DataFrame:
    """The rows that the first `num_stages` stages train on."""
    return manifest[manifest["stage"] < num_stages].reset_index(drop=True)


def choose_pictures(manifests: Mapping[int, pd.DataFrame], *, num: int, seed: int) -> list[PictureRequest]:
    """What evaluation asks of every model of the same manifests; without any sample, pictures of no caption."""
    samples = ((shard, len(frame), tuple(sorted(set(frame["caption"])))) for shard, frame in sorted(manifests.items()) if len(frame))
    return list(_choose_pictures(tuple(samples), num, seed))


@lru_cache(maxsize=2)
def _choose_pictures(samples: tuple[tuple[int, int, tuple[str, ...]], ...], num: int, seed: int) -> tuple[PictureRequest, ...]:
    """From (shard, samples, captions); kept, since a flow asks at several of its steps and it takes a hash a caption and picture."""
    shards = [Expert(shard=shard, adapter=Digest(""), samples=count, centroids=None) for shard, count, _ in samples]
    captions = {shard: of_shard for shard, _, of_shard in samples}
    chosen = []
    for number in range(num):
        picture_seed = derive_seed("evaluation", seed, number)
        caption = _draw_caption(captions[shards[draw_expert(shards, picture_seed)].shard], picture_seed) if shards else ""
        chosen.append(PictureRequest(seed=picture_seed, caption=caption))
    return tuple(chosen)


def _draw_caption(captions: Sequence[str], picture_seed: int) -> str:
    return min(captions, key=lambda caption: derive_seed("caption", picture_seed, caption))


def smallest_compositions(composition: Composition, pictures: list[PictureRequest]) -> list[tuple[Composition, list[PictureRequest]]]:
    """Group the pictures by the smallest composition that makes them: one expert each where one alone is used, else the whole."""
    if not composition.is_one_expert_a_seed:
        return [(composition, pictures)]
    groups: dict[int, list[PictureRequest]] = {}
    for picture in pictures:
        shard = composition.experts[draw_expert(composition.experts, picture.seed)].shard
        groups.setdefault(shard, []).append(picture)
    return [(composition.restricted_to([shard]), group) for shard, group in sorted(groups.items())]


def generated_file(workspace: Workspace, composition: Composition) -> Path:
    """The cache file of a smallest composition."""
    return workspace.cache / "generated" / f"{composition.digest}.safetensors"


def generate_missing(
    workspace: Workspace, composition: bytes, adapters: dict[int, Path], centroids: dict[int, Path], pictures: list[PictureRequest]
) -> None:
    """Make what the cache lacks, with features. Reports progress as "evaluation pictures". Run it in a process of one thread."""
    missing = find_missing(workspace, composition, pictures)
    if not missing:
        return
    extractor = shared_extractor(workspace.settings().evaluation.inception_weights)
    model = _composed_model(composition, tuple(adapters.items()), tuple(centroids.items()))
    made: dict[str, torch.Tensor] = {}
    for start in range(0, len(missing), NETWORK_BATCH):
        chunk = missing[start : start + NETWORK_BATCH]
        drawn = model.generate([picture.caption for picture in chunk], [picture.seed for picture in chunk])
        features = extractor.extract(drawn)
        for row, picture in enumerate(chunk):
            made[f"{picture.key}.picture"] = drawn[row].clone()
            made[f"{picture.key}.{extractor.digest}"] = features[row].clone()
        report_progress("evaluation pictures", len(chunk))
    path = generated_file(workspace, parse_composition(composition))
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(workspace.cache / "generated.lock"):  # chunks of one composition may end in two processes at once
        write_atomically(path, save((load(path.read_bytes()) if path.is_file() else {}) | made))


def find_missing(workspace: Workspace, composition: bytes, pictures: list[PictureRequest]) -> list[PictureRequest]:
    """What the cache lacks of a smallest composition's pictures; reports the others as made."""
    extractor_digest = shared_extractor_digest(workspace.settings().evaluation.inception_weights)
    path = generated_file(workspace, parse_composition(composition))
    cached = load(path.read_bytes()) if path.is_file() else {}
    missing = [picture for picture in pictures if f"{picture.key}.{extractor_digest}" not in cached]
    report_progress("evaluation pictures", len(pictures) - len(missing))
    return missing


def generate_for(
    pool: Executor,
    workspace: Workspace,
    composition: Composition,
    adapters: dict[int, Path],
    centroids: dict[int, Path],
    pictures: list[PictureRequest],
) -> None:
    """Fill the cache for a composition: what is missing, in parallel, a batch of the network's size at a time."""
    groups = smallest_compositions(composition, pictures)
    searches = [pool.submit(find_missing, workspace, part.to_bytes(), group) for part, group in groups]
    missing = [(part, search.result()) for (part, _), search in zip(groups, searches, strict=True)]
    pending = [
        pool.submit(
            generate_missing,
            workspace,
            part.to_bytes(),
            {shard: adapters[shard] for shard in part.shards},
            {shard: centroids[shard] for shard in part.shards if shard in centroids},
            lacking[start : start + NETWORK_BATCH],
        )
        for part, lacking in missing
        for start in range(0, len(lacking), NETWORK_BATCH)
    ]
    for future in pending:
        future.result()


def load_generated(workspace: Workspace, composition: Composition, pictures: list[PictureRequest]) -> tuple[torch.Tensor, torch.Tensor]:
    """(pictures uint8 [n, 3, 32, 32], features float32 [n, D]) from the cache, in the order asked for.

    Raises:
        VerificationError: the cache lacks one.
    """
    extractor_digest = shared_extractor_digest(workspace.settings().evaluation.inception_weights)
    found: dict[str, torch.Tensor] = {}
    for part, group in smallest_compositions(composition, pictures):
        path = generated_file(workspace, part)
        tensors = load(path.read_bytes()) if path.is_file() else {}
        for picture in group:
            for kind in ("picture", extractor_digest):
                name = f"{picture.key}.{kind}"
                if name not in tensors:
                    raise VerificationError(f"{path}: lacks an evaluation picture; generate before judging")
                found[name] = tensors[name]
    made = torch.stack([found[f"{picture.key}.picture"] for picture in pictures])
    return made, torch.stack([found[f"{picture.key}.{extractor_digest}"] for picture in pictures])


def judge_compositions(
    workspace: Workspace, before: Composition, after: Composition, pictures: list[PictureRequest], moments_files: list[Path]
) -> GateResult:
    """The quality gate between two compositions whose pictures are cached. Run it in a process of one thread.

    Fewer than two samples left to compare with is inconclusive, not an error: whoever asks to be forgotten last is forgotten too.
    """
    evaluation = workspace.settings().evaluation
    reference = _sum_moments(moments_files)
    if reference.count < 2:
        return _without_reference(reference.count, evaluation)
    seeds = torch.tensor([picture.seed for picture in pictures])
    old, new = (
        GeneratedFeatures(features=load_generated(workspace, composition, pictures)[1], seeds=seeds) for composition in (before, after)
    )
    return judge_quality(old, new, build_frechet_reference(reference), num_blocks=evaluation.blocks, margin=evaluation.margin)


def _without_reference(num_samples_left: int, evaluation: EvaluationSettings) -> GateResult:
    return GateResult(
        verdict="inconclusive",
        fd_before=0.0,
        fd_after=0.0,
        change=0.0,
        upper_bound=0.0,
        standard_error=0.0,
        margin=evaluation.margin,
        margin_absolute=0.0,
        num_samples=evaluation.samples,
        num_blocks=evaluation.blocks,
        reason=f"a distance needs two samples to compare with, and {num_samples_left} are left",
    )


def gate_to_json(gate: GateResult) -> dict[str, float | int | str]:
    """The gate's numbers under its own field names."""
    return asdict(gate)


def erase_generated_but(workspace: Workspace, compositions: list[Composition], pictures: list[PictureRequest]) -> int:
    """Delete every cached generation that none of the compositions needs; returns how many files went.

    Raises:
        VerificationError: one is still there.
    """
    parts = [part for composition in compositions for part, _ in smallest_compositions(composition, pictures)]
    return _erase_but(workspace.cache / "generated", {generated_file(workspace, part).name for part in parts})


def erase_descriptions_but(workspace: Workspace, descriptions: list[ShardDescription]) -> int:
    """Delete every shard description but these; returns how many files went.

    Raises:
        VerificationError: one is still there.
    """
    keep = {
        path.name
        for description in descriptions
        for path in (*description.centroids_files, description.moments_file, description.seen_file)
    }
    return _erase_but(workspace.cache / "shards", keep)


def _erase_but(folder: Path, keep: set[str]) -> int:
    doomed = [path for path in folder.glob("*") if path.name not in keep]
    for path in doomed:
        if not path.is_dir():  # nothing here makes folders; one is reported, not walked into
            path.unlink(missing_ok=True)
    if left := [path.name for path in folder.glob("*") if path.name not in keep]:
        raise VerificationError(f"{folder}: {left[0]} is still there after its erasure")
    return len(doomed)


def _sum_moments(files: list[Path]) -> Moments:
    if not files:
        raise VerificationError("evaluation: there is no reference, since no sample is left")
    return Moments.add_up((path.read_bytes(), str(path)) for path in files)


@lru_cache(maxsize=1)
def _composed_model(composition: bytes, adapters: tuple[tuple[int, Path], ...], centroids: tuple[tuple[int, Path], ...]) -> ComposedModel:
    """Kept until another is asked for: the batches of one composition follow one another."""
    return load_composed_model(composition, dict(adapters), dict(centroids), shared_backbone())
