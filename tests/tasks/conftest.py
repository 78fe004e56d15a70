"""Workspaces with a real MLflow store, and workspaces with real git and DVC. Making one takes seconds, so it is made once a session and
each test copies the result.
"""

import shutil
from pathlib import Path

import pytest
from composition_maker import CompositionMaker
from mlflow import MlflowClient
from small_workspace import make_small_workspace

from tasks.models.tracking import create_tracking
from tasks.workspace import Workspace


@pytest.fixture(scope="session")
def _migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked(_migrated_database: Path, tmp_path: Path) -> Workspace:
    """A workspace whose MLflow store is ready and empty."""
    ws = Workspace(tmp_path)
    ws.mlflow.mkdir(parents=True)
    shutil.copyfile(_migrated_database, ws.mlflow / "mlflow.db")
    create_tracking(ws)
    return ws


@pytest.fixture
def maker(tracked: Workspace) -> CompositionMaker:
    """Makes compositions in the tracked workspace."""
    return CompositionMaker(tracked)


@pytest.fixture(scope="session")
def _small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_workspace(tmp_path_factory.mktemp("small") / "ws").root


@pytest.fixture
def small(_small_template: Path, tmp_path: Path) -> Workspace:
    """A workspace of four owners in two shards, committed and trained; it has been moved from where it was made."""
    shutil.copytree(_small_template, tmp_path / "ws")
    return Workspace(tmp_path / "ws")
