"""The classifier of the non-local method: trained when it's asked for, on all shards' samples of today, and named by them.

A deletion, whichever shard it hits, changes the name. Where there is a classifier, the forget flow trains today's among its retraining,
and the purge erases every other. Meanwhile none serves: the stopped model's numbers of samples are not those that a classifier was trained
on, and `find_or_train_classifier` refuses.

`lethe generate` trains one beside whatever flow runs. So nothing is written for samples that have changed since: a write holds a lock that
the purge takes too, and looks first whether its name is still today's. A purge follows the change of the manifests, so either the write
sees that, or the purge sees the write.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cdm_core.composition.document import Composition
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.methods.classifier import ClassifierSettings, classifier_key, classifier_to_bytes, train_classifier
from cdm_core.sharding.manifests import samples_digest
from tasks.data.manifest_store import load_manifests
from tasks.files import write_atomically
from tasks.locks import exclusive_lock
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.training.shard_training import load_stage, shared_backbone, shared_backbone_digest
from tasks.training.workers import report_progress
from tasks.workspace import Workspace

_LOCK = "classifiers.lock"
_CHANGED = "classifier: samples came or went while it was trained; run the same command again"


def classifier_file(ws: Workspace) -> Path:
    """Where the classifier of today's samples lies, if it was trained by this code on a machine like this."""
    return _file_of(ws, load_manifests(ws))


def find_or_train_classifier(ws: Workspace, composition: Composition) -> Path:
    """The classifier for a composition of today's samples. Reports progress as "classifier". Run it in a process of one thread.

    Raises:
        StateError: the composition's adapters were trained on other numbers of samples than the workspace holds, or samples came or went
            meanwhile.
    """
    counts = {shard: len(frame) for shard, frame in load_manifests(ws).items() if len(frame)}
    if {expert.shard: expert.samples for expert in composition.experts} != counts:
        raise StateError("classifier: the model that serves is not of today's samples; wait for the flow, or use another method")
    path = train_classifier_of_today(ws)
    if path is None:
        raise StateError(_CHANGED)
    return path


def erase_classifiers(ws: Workspace) -> int:
    """Erase every classifier but that of today's samples; returns how many went.

    Raises:
        VerificationError: one is still there.
    """
    with exclusive_lock(ws.private / _LOCK):
        today = classifier_file(ws) if _folder(ws).is_dir() else None
        doomed = [path for path in _folder(ws).glob("*") if path != today]
        for path in doomed:
            path.unlink()
        if left := [path.name for path in _folder(ws).glob("*") if path != today]:
            raise VerificationError(f"{_folder(ws)}: {left[0]} is still there after its erasure")
    return len(doomed)


def train_classifier_of_today(ws: Workspace) -> Path | None:
    """The classifier of today's samples, trained unless it's there; None if no sample is left. Run it in a process of one thread.

    Raises:
        StateError: samples came or went meanwhile; nothing was written.
    """
    frames = load_manifests(ws)
    path = _file_of(ws, frames)
    if not path.is_file():
        if not any(len(frame) for frame in frames.values()):
            return None
        _write(ws, path, _train(ws, frames))
    return path


def retrain_classifier(ws: Workspace) -> Digest | None:
    """Where a classifier of whatever samples exists, that of today's in its place: its file's digest. Run it in a process of one thread."""
    if not _folder(ws).is_dir() or not any(_folder(ws).iterdir()):
        return None
    path = train_classifier_of_today(ws)
    return None if path is None else sha256_digest(path.read_bytes())


def _train(ws: Workspace, frames: Mapping[int, pd.DataFrame]) -> bytes:
    shards = {shard: load_stage(ws, frame) for shard, frame in sorted(frames.items()) if len(frame)}
    network = train_classifier(shared_backbone(), shards, ClassifierSettings(), on_step=lambda: report_progress("classifier"))
    return classifier_to_bytes(network, list(shards))


def _write(ws: Workspace, path: Path, content: bytes) -> None:
    with exclusive_lock(ws.private / _LOCK):
        if classifier_file(ws) != path:
            raise StateError(_CHANGED)
        write_atomically(path, content)


def _file_of(ws: Workspace, frames: Mapping[int, pd.DataFrame]) -> Path:
    digests = {shard: samples_digest(frame) for shard, frame in sorted(frames.items()) if len(frame)}
    key = classifier_key(shared_backbone_digest(), digests, ClassifierSettings(), measure_own_fingerprint())
    return _folder(ws) / f"{key}.safetensors"


def _folder(ws: Workspace) -> Path:
    return ws.cache / "classifiers"
