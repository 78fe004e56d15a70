"""The history of a pretraining run, in a real MLflow store."""

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from cdm_core.errors import InvalidInputError
from tasks.pretraining.training_history import LOSS, read_history, training_run


@pytest.fixture
def folder(_migrated_database: Path, tmp_path: Path) -> Path:
    """A folder whose store has its tables, which take MLflow seconds, and nothing in them."""
    shutil.copyfile(_migrated_database, tmp_path / "mlflow.db")
    return tmp_path


def _run(folder: Path, losses: dict[int, float], batch_size: int = 8) -> None:
    with training_run(folder, "pretrain backbone", {"batch_size": batch_size}) as log:
        for step, loss in losses.items():
            log(LOSS, loss, step)


def test_runs_that_went_on_are_one_history(folder: Path) -> None:
    _run(folder, {20: 3.0, 40: 2.0, 60: 1.5})
    _run(folder, {60: 1.25, 80: 1.0})  # the first run was stopped after step 60, and its state saved at step 40
    history = read_history(folder)
    assert history.losses == ((20, 3.0), (40, 2.0), (60, 1.25), (80, 1.0))
    assert history.batch_size == 8


def test_a_run_that_broke_off_is_marked(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), training_run(folder, "pretrain backbone", {"batch_size": 8}):
        raise KeyboardInterrupt
    store = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = store.get_experiment_by_name("pretraining")
    assert experiment is not None
    assert [run.info.status for run in store.search_runs([experiment.experiment_id])] == ["FAILED"]
    assert experiment.artifact_location == (folder / "artifacts").as_uri()
    with pytest.raises(InvalidInputError, match=r"its mlflow\.db has no run of `lethe pretrain backbone`"):
        read_history(folder)


def test_a_folder_without_a_store_is_refused_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no mlflow\.db here; give the folder that `lethe pretrain backbone` wrote"):
        read_history(tmp_path)
    assert not list(tmp_path.iterdir())
