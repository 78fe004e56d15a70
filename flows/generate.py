"""`lethe generate`: sample the champion into a grid."""

from pathlib import Path

import torch

from cdm_core.composition.document import Composition, parse_composition, parse_method, parse_prior, parse_sampler
from cdm_core.composition.serving import load_composed_model
from cdm_core.digests import derive_seed, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.evaluation.picture_grid import build_grid
from cdm_core.evidence.grants import Grant
from cdm_core.fingerprint import NUM_THREADS
from flows.console import progress_bars
from flows.grant import parse_shards
from flows.protect import generate_protected
from tasks.clock import utc_now
from tasks.data.caption_counts import count_captions
from tasks.files import check_writable, write_output
from tasks.models.compositions import centroid_files
from tasks.models.entitlements import load_grant
from tasks.models.model_registry import adapters_of, champion, composition_of
from tasks.training.classifiers import find_or_train_classifier
from tasks.workspace import open_workspace

_BATCH = 256
"""Sampled together: the more, the fewer rows that pad an expert's last batch. A picture's bits don't depend on it."""
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
    entitlements: Path | None = None,
    sampler: str | None = None,
    bound: float | None = None,
    prior: str | None = None,
) -> dict[str, object]:
    """Sample `num` pictures; picture k is a function of (composition, prompt, seed, k) alone."""
    torch.set_num_threads(NUM_THREADS)
    ws = open_workspace(directory)
    check_writable(out)
    grant = None if entitlements is None else load_grant(ws, entitlements, utc_now())
    serving = champion(ws)
    if serving is None:
        raise StateError(f"{ws.root}: there is no model yet; run: lethe build")
    whole = parse_composition(composition_of(ws, serving.version))
    composition = restrict(whole, None if shards is None else parse_shards(shards), grant)
    if method is not None or sampler is not None:
        chosen = parse_method(method) if method is not None else composition.sampling.method
        composition = composition.with_method(chosen, parse_sampler(sampler) if sampler is not None else None)
    if prior is not None:
        composition = composition.with_prior(parse_prior(prior))
    if bound is not None and composition.sampling.method != "cp_delta":
        raise InvalidInputError(f"bound: only --method cp_delta has one, not {composition.sampling.method}")
    if not out.resolve().parent.is_dir():
        raise InvalidInputError(f"{out}: its folder doesn't exist")
    classifier = None
    if composition.sampling.method.endswith("classifier") and composition.shards == whole.shards:
        classifier = find_or_train_classifier(ws, composition)
        composition = composition.with_classifier(sha256_digest(classifier.read_bytes()))
    files = adapters_of(ws, serving.version), centroid_files(ws, composition)
    counts = count_captions(ws, composition) if composition.sampling.prior == "captions" else None
    model = load_composed_model(composition.to_bytes(), *files, classifier=classifier, caption_counts=counts)
    seeds = seeds_of(seed, num)
    subject = None if grant is None else grant.subject
    if model.is_protected:
        made_of = {"out": str(out), "model_version": serving.version, "subject": subject}
        return made_of | generate_protected(model, seeds, prompt, bound, out)
    made = []
    with progress_bars({"steps": composition.sampling.steps * len(range(0, num, _BATCH))}) as advance:
        for start in range(0, num, _BATCH):
            chunk = seeds[start : start + _BATCH]
            made.append(model.generate([prompt] * len(chunk), chunk, on_step=lambda: advance("steps", 1)))
    write_output(out, build_grid(torch.cat(made), min(8, num), _SCALE))
    return {
        "out": str(out),
        "model_version": serving.version,
        "composition": composition.digest,
        "method": composition.sampling.method,
        "prior": composition.sampling.prior,
        "shards": list(composition.shards),
        "subject": subject,
        "per_image": [{"shard": shard} for shard in model.shards_of(seeds, [prompt] * num)],
    }


def seeds_of(seed: int, num: int) -> list[int]:
    """Picture k's own seed."""
    return [derive_seed("generate", seed, number) for number in range(num)]


def restrict(composition: Composition, asked: list[int] | None, grant: Grant | None) -> Composition:
    """What may be used of a composition: the shards asked for, else all that the grant allows.

    Raises:
        InvalidInputError: a shard is asked for that is not in the composition.
        RequestRefusedError: or that the grant doesn't name.
    """
    if grant is not None:
        outside = sorted(set(asked or []) - set(grant.shards))
        if outside:
            raise RequestRefusedError(f"shard {outside[0]} is not in the grant; it has {list(grant.shards)}", reason="not_granted")
        composition = composition.restricted_to(sorted(set(composition.shards) & set(grant.shards)))
    return composition if asked is None else composition.restricted_to(asked)
