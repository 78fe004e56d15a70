"""A classifier that was begun before a deletion isn't written after its purge."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_workspace import OWNERS, SECRET

from cdm_core.errors import StateError
from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.manifest_store import load_manifests
from tasks.data.samples import remove_samples
from tasks.training import classifiers
from tasks.training.classifiers import classifier_file, erase_classifiers, retrain_classifier, train_classifier_of_today
from tasks.workspace import Workspace


@pytest.fixture
def ws(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in which training is done at once."""
    train_by(monkeypatch, lambda: None)
    return small


def train_by(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen while a classifier is trained."""

    def train(ws: Workspace, frames: object) -> bytes:
        happen()
        return b"weights"

    monkeypatch.setattr(classifiers, "_train", train)


def forget(ws: Workspace, owner: str) -> None:
    """What a deletion does here, from its removal to its purge."""
    remove_samples(ws, find_samples(load_manifests(ws), owner_keys=[compute_owner_key(SECRET, owner)]))
    erase_classifiers(ws)


def kept(ws: Workspace) -> list[Path]:
    return sorted((ws.cache / "classifiers").glob("*"))


def test_what_was_trained_is_found_again_and_a_deletion_erases_it(ws: Workspace) -> None:
    path = train_classifier_of_today(ws)
    assert path == classifier_file(ws) == train_classifier_of_today(ws)
    assert kept(ws) == [path]
    forget(ws, OWNERS[0])
    assert kept(ws) == []


def test_one_whose_samples_went_meanwhile_is_not_written(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    train_by(monkeypatch, lambda: forget(ws, OWNERS[0]))
    with pytest.raises(StateError, match="classifier: samples came or went while it was trained; run the same command again"):
        train_classifier_of_today(ws)
    assert kept(ws) == []
    train_by(monkeypatch, lambda: None)
    assert train_classifier_of_today(ws) == classifier_file(ws)


def test_the_name_is_that_of_the_samples_that_were_loaded(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of those that were there before, or come after."""
    loaded: list[object] = []
    monkeypatch.setattr(classifiers, "_train", lambda ws, frames: loaded.append(frames) or b"weights")
    assert train_classifier_of_today(ws) == classifiers._file_of(ws, loaded[0])  # type: ignore[arg-type]


def test_without_samples_there_is_none(ws: Workspace) -> None:
    train_classifier_of_today(ws)
    for owner in OWNERS:
        remove_samples(ws, find_samples(load_manifests(ws), owner_keys=[compute_owner_key(SECRET, owner)]))
    assert retrain_classifier(ws) is None
