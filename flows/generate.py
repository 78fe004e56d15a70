"""`lethe generate`: sample the champion into a grid."""

from pathlib import Path

import torch

from cdm_core.composition import parse_composition, parse_method, parse_sampler
from cdm_core.digests import derive_seed, sha256_digest
from cdm_core.errors import InvalidInputError, StateError
from cdm_core.fingerprint import NUM_THREADS
from cdm_core.picture_grid import build_grid
from cdm_core.serving import load_composed_model
from flows.console import progress_bars
from flows.protect import generate_protected
from tasks.classifiers import find_or_train_classifier
from tasks.compositions import centroid_files
from tasks.files import write_atomically
from tasks.model_registry import adapters_of, champion, composition_of
from tasks.workspace import open_workspace

_BATCH = 64
_SCALE = 3


def run_generate(
    directory: Path,
    *,
    num: int,
    seed: int,
    prompt: str | None,
    shards: str | None,
    method: str | None,
    out: Path,
    sampler: str | None = None,
    bound: float | None = None,
) -> dict[str, object]:
    """Sample `num` pictures; picture k is a function of (composition, prompt, seed, k) alone."""
    torch.set_num_threads(NUM_THREADS)
    ws = open_workspace(directory)
    serving = champion(ws)
    if serving is None:
        raise StateError(f"{ws.root}: there is no model yet; run: lethe build")
    composition = whole = parse_composition(composition_of(ws, serving.version))
    if shards is not None:
        composition = composition.restricted_to(_parse_shards(shards))
    if method is not None or sampler is not None:
        chosen = parse_method(method) if method is not None else composition.sampling.method
        composition = composition.with_method(chosen, parse_sampler(sampler) if sampler is not None else None)
    if bound is not None and composition.sampling.method != "cp_delta":
        raise InvalidInputError(f"bound: only --method cp_delta has one, not {composition.sampling.method}")
    if not out.resolve().parent.is_dir():
        raise InvalidInputError(f"{out}: its folder doesn't exist")
    classifier = None
    if composition.sampling.method.endswith("classifier") and composition.shards == whole.shards:
        classifier = find_or_train_classifier(ws, composition)
        composition = composition.with_classifier(sha256_digest(classifier.read_bytes()))
    files = adapters_of(ws, serving.version), centroid_files(ws, composition)
    model = load_composed_model(composition.to_bytes(), *files, classifier=classifier)
    if model.is_protected:
        return generate_protected(model, seeds_of(seed, num), prompt, bound, out.resolve()) | {
            "out": str(out),
            "model_version": serving.version,
        }
    seeds = seeds_of(seed, num)
    made = []
    with progress_bars({"steps": composition.sampling.steps * len(range(0, num, _BATCH))}) as advance:
        for start in range(0, num, _BATCH):
            chunk = seeds[start : start + _BATCH]
            made.append(model.generate([prompt] * len(chunk), chunk, on_step=lambda: advance("steps", 1)))
    write_atomically(out.resolve(), build_grid(torch.cat(made), min(8, num), _SCALE))
    return {
        "out": str(out),
        "model_version": serving.version,
        "composition": composition.digest,
        "method": composition.sampling.method,
        "shards": list(composition.shards),
        "per_image": [{"shard": shard} for shard in model.shards_of(seeds, [prompt] * num)],
    }


def seeds_of(seed: int, num: int) -> list[int]:
    """Picture k's own seed."""
    return [derive_seed("generate", seed, number) for number in range(num)]


def _parse_shards(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InvalidInputError(f"shards: {text!r} is not a list of numbers such as 0,3") from error
