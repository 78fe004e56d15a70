"""`lethe replay`: verify a record, train again what it says was trained, and compare every digest that it names.

No orchestrator: an auditor's machine needs a clone and the DVC remote, and nothing is left behind on it.

With `--sample` the auditor's key picks which of the records in a folder are re-run, by HMAC over each record's digest: whoever signed
them couldn't know which it would be. All records of the folder are verified and those that name a retraining are ranked, so none can be
kept out of the draw but by cutting the chain's end off, which its newest record's digest, kept elsewhere, shows.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cdm_core.errors import InvalidInputError, StateError, VerificationError
from flows.console import progress_bars, say
from tasks.evidence.records import SignedRecord, find_root, list_records, read_record
from tasks.keys import load_record_keys, load_trusted_keys
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported without __all__

    from cdm_core.digests import Digest
    from tasks.evidence.replaying import Prepared, ReplayTask
    from tasks.training.shard_training import TrainedShard

Document = dict[str, object]
_LISTS = ("equal", "differing", "not_comparable", "missing_inputs")


def run_replay(path: Path, directory: Path | None, keys_place: Path | None, sample: str | None, count: int) -> Document:
    """Replay one record, or those that the auditor's key picks among the records beside it.

    Raises:
        InvalidInputError: no such record, one that names no retraining, or no key to check it with.
        StateError: the clone is none.
        VerificationError: a record doesn't hold.
    """
    path = path.resolve()
    source = _find_source(path, directory)
    keys = _find_keys(path, source, keys_place)
    if sample is None:
        return _replay(read_record(path, keys), source)
    candidates, picked = _pick(path if path.is_dir() else path.parent, keys, sample, count)
    say(f"picked {', '.join(record.path.name for record in picked)} of {candidates} records that name a retraining")
    return {"candidates": candidates, **_summarise([_replay(record, source) for record in picked])}


def _replay(record: SignedRecord, source: Workspace) -> Document:
    from tasks.evidence.replaying import compare_task, differing_parts, prepare_scratch, read_task, skip_task

    task = read_task(record, source)
    there, here = task.fingerprints
    trained: list[TrainedShard] = []
    if here != there:
        result = skip_task(task)
    else:
        with tempfile.TemporaryDirectory(prefix="lethe-replay-") as folder:
            scratch = Workspace(Path(folder).resolve())
            prepared = prepare_scratch(task, scratch)
            trained, centroids = _train(task, prepared, scratch)
            result = compare_task(task, prepared, scratch, trained, centroids)
    parts: Document = {name: [asdict(entry) for entry in getattr(result, name)] for name in _LISTS}
    return {
        "record": str(record.path),
        "record_digest": record.digest,
        "keyid": record.statement.keyid,
        "records_in_chain": record.num_chained,
        "revision": task.revision,
        "shards": task.shards,
        "shards_retrained": [shard.shard for shard in trained],
        "steps": sum(shard.steps for shard in trained),
        "fingerprint": {"record": there, "here": here, "differs_in": differing_parts(task)},
        "compared": len(result.equal) + len(result.differing),
        **parts,
        "grade": result.grade,
    }


def _train(task: "ReplayTask", prepared: "Prepared", scratch: Workspace) -> tuple[list["TrainedShard"], dict[int, "Digest"]]:
    """Train the shards whose inputs are there, from nothing, each in a process of one thread; their centroids too."""
    if not prepared.shards:
        return [], {}
    from tasks.data.manifest_store import load_manifest
    from tasks.models.evaluation import recompute_centroids
    from tasks.training.shard_training import stage_steps, train_shard
    from tasks.training.workers import worker_pool

    steps = sum(sum(stage_steps(load_manifest(scratch, shard), scratch.settings())) for shard in prepared.shards)
    with progress_bars({"steps": steps}) as advance, worker_pool(on_progress=advance) as pool:
        training = [pool.submit(train_shard, scratch, shard) for shard in prepared.shards]
        describing = {shard: pool.submit(recompute_centroids, scratch, shard) for shard in prepared.shards}
        return [future.result() for future in training], {shard: future.result() for shard, future in describing.items()}


def _pick(folder: Path, keys: Sequence["Key"] | None, sample: str, count: int) -> tuple[int, list[SignedRecord]]:
    """How many records of the folder name a retraining, and those that the key picks."""
    from cdm_core.digests import sha256_digest
    from cdm_core.evidence.replay import choose_sample
    from tasks.evidence.replaying import names_retraining

    if not sample:
        raise InvalidInputError("sample: the key must not be empty")
    paths = list_records(folder)
    if not paths:
        raise InvalidInputError(f"{folder}: holds no record")
    first, last = read_record(paths[0], keys), read_record(paths[-1], keys)
    if last.num_chained != len(paths) or first.statement.predicate["previous_record"] is not None:
        raise VerificationError(f"{folder}: records are missing from the chain; a draw is only fair among all of them")
    statements = {first.path.name: first.statement, **first.later}
    candidates = [path for path in paths if names_retraining(statements[path.name])]
    if not candidates:
        raise InvalidInputError(f"{folder}: holds no record that names a retraining")
    chosen = choose_sample(sample, [sha256_digest(path.read_bytes()) for path in candidates], count)
    return len(candidates), [read_record(candidates[position], keys) for position in chosen]


def _summarise(replays: list[Document]) -> Document:
    """One document with the keys of a single replay, each entry saying which record it is about, and each replay in full."""
    from cdm_core.evidence.replay import worst_grade

    def gather(name: str) -> list[Document]:
        return [
            {"in_record": Path(str(replay["record"])).name, **entry}
            for replay in replays
            for entry in replay[name]  # type: ignore[attr-defined]  # it came out of a ReplayResult
        ]

    return {
        "compared": sum(int(str(replay["compared"])) for replay in replays),
        **{name: gather(name) for name in _LISTS},
        "grade": worst_grade([replay["grade"] for replay in replays]),  # type: ignore[misc]  # it came out of a ReplayResult
        "records": replays,
    }


def _find_source(path: Path, directory: Path | None) -> Workspace:
    """The clone; else the workspace that the record lies in."""
    root = directory.resolve() if directory is not None else find_root(path)
    if root is None:
        raise InvalidInputError(f"{path}: lies in no workspace; say with --workspace where a clone is")
    if not (root / ".git").exists() or not (root / ".dvc").is_dir():
        raise StateError(f"{root}: no clone of a workspace: it has no git and DVC repository")
    return Workspace(root)


def _find_keys(path: Path, source: Workspace, place: Path | None) -> Sequence["Key"] | None:
    """Whose signature to trust: as told; else the record's own workspace (None), or the one given if the record lies in none."""
    if place is not None:
        return load_trusted_keys(place)
    if find_root(path) is not None:
        return None
    return load_record_keys(source.keys)
