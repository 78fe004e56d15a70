"""Erases from MLflow what tainted adapters left there, and proves it by listing again.

MLflow's own deletion hides rows and keeps files: `delete_run` and `gc` leave a logged model's weights, and `gc` without ids also takes
what a person hid for other reasons. So the files decide: a model is tainted if its composition names a tainted adapter or if any of its
files is one. What a crash left half written can't be told by a digest: call this inside the flow's lock, where nothing is registered beside
it, and whatever is staged, or belongs to a logged model that never became ready, is such a rest and goes. A step that is gone on with
writes its model anew. Under the promotion lock, so that no version becomes the champion while it is being erased:

1. refuse if a version to be kept is tainted;
2. pictures that a tainted composition drew, out of every run, what is staged, and the adapters themselves wherever else they lie;
3. the versions registered from a tainted model, and the logged model's rows;
4. the model's folder, its weights before the composition that names them: until they are gone, the next call after a crash finds the
   same things to finish;
5. list again.

Runs stay, with their notes, metrics and records: those hold digests and numbers. So do the rows of deleted versions, marked as deleted,
with tags that hold digests alone.
"""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.dbmodels.models import SqlInput, SqlLoggedModel
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from tasks.evidence.audit_log import PICTURE_TAG, picture_folder
from tasks.models import tracking
from tasks.models.model_registry import STAGING, champion
from tasks.models.promotion import promotion_lock
from tasks.models.tracking import MODEL
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    model_id: str
    folder: Path
    composition: Digest | None  # None where a crash came before the file


def erase_versions(ws: Workspace, *, keep_versions: Collection[int], tainted: Collection[Digest]) -> dict[str, int]:
    """Erase every version, logged model, picture and file that a tainted adapter is part of; gives the counts by kind.

    Args:
        keep_versions: versions that the caller relies on; the champion is always one.
        tainted: digests of adapter files, and of whatever else a composition names.

    Raises:
        StateError: a version to keep is tainted; nothing was erased.
        VerificationError: something is still there afterwards.
    """
    store = tracking.client(ws)
    rows = SqlAlchemyStore(tracking.store_uri(ws), (ws.mlflow / "artifacts").as_uri())  # type: ignore[no-untyped-call]  # MLflow's
    with promotion_lock(ws):
        tainted_models = _tainted_models(ws, tainted)
        models = tainted_models + _unfinished_models(ws, rows, but={model.model_id for model in tainted_models})
        versions = {model.model_id: _versions_of(store, model.model_id) for model in models}
        _refuse_kept(ws, keep_versions, [version for found in versions.values() for version in found])  # 1
        num_files = _erase_pictures(ws, store, {model.composition for model in tainted_models})  # 2
        num_files += sum(_erase_folder(folder) for folder in _staged(ws)) + _erase_loose_adapters(ws, tainted)
        for model in models:
            for version in versions[model.model_id]:
                store.delete_model_version(MODEL, str(version))  # 3
            _erase_rows(rows, model.model_id)
            num_files += _erase_folder(model.folder)  # 4
        verify_erased(ws, tainted)  # 5
        if left := [*_staged(ws), *(model.folder for model in _unfinished_models(ws, rows))]:
            raise VerificationError(f"{left[0]}: what a crash left half written is still in the MLflow store")
    return {
        "mlflow_versions": sum(len(found) for found in versions.values()),
        "mlflow_logged_models": len(models),
        "mlflow_artifacts": num_files,
    }


def verify_erased(ws: Workspace, tainted: Collection[Digest]) -> None:
    """List the store again.

    Raises:
        VerificationError: a tainted adapter lies anywhere in it, or a model's composition names one.
    """
    for path in _files(ws.mlflow):
        if _is_adapter(path, tainted):
            raise VerificationError(f"{path}: an erased adapter is still in the MLflow store")
    for model in _tainted_models(ws, tainted):
        raise VerificationError(f"{model.folder}: a composition in the MLflow store still names an erased adapter")


def _tainted_models(ws: Workspace, tainted: Collection[Digest]) -> list[_Model]:
    models = []
    for folder in sorted(_models(ws).glob("*")):
        composition = _read_composition(folder)
        # As text: what a crash cut short is no document any more.
        named = composition is not None and any(digest.encode() in composition for digest in tainted)
        if named or any(_is_adapter(file, tainted) for file in _files(folder)):
            models.append(_describe_model(folder))
    return models


def _unfinished_models(ws: Workspace, rows: SqlAlchemyStore, *, but: Collection[str] = ()) -> list[_Model]:
    """Models whose files a crash cut short, but some that are known; a folder without a row is what is left of an erasure."""
    with rows.ManagedSessionMaker(read_only=True) as session:
        query = session.query(SqlLoggedModel.model_id).filter(SqlLoggedModel.status == LoggedModelStatus.READY.to_int())
        ready = {str(model_id) for (model_id,) in query}
    return [_describe_model(folder) for folder in sorted(_models(ws).glob("*")) if folder.name not in ready.union(but)]


def _describe_model(folder: Path) -> _Model:
    composition = _read_composition(folder)
    return _Model(model_id=folder.name, folder=folder, composition=sha256_digest(composition) if composition else None)


def _read_composition(folder: Path) -> bytes | None:
    path = folder / "artifacts" / "artifacts" / "composition.json"
    return path.read_bytes() if path.is_file() else None


def _staged(ws: Workspace) -> list[Path]:
    return sorted(ws.mlflow.glob(f"{STAGING}*"))


def _is_adapter(path: Path, tainted: Collection[Digest]) -> bool:
    return sha256_digest(path.read_bytes()) in tainted


def _versions_of(store: MlflowClient, model_id: str) -> list[int]:
    filter_string = f"name = '{MODEL}' and {tracking.tag_equals('logged_model', model_id)}"
    found = tracking.all_pages(lambda token: store.search_model_versions(filter_string, page_token=token))
    return [int(version.version) for version in found]


def _refuse_kept(ws: Workspace, keep_versions: Collection[int], doomed: Collection[int]) -> None:
    present = champion(ws)
    kept = set(keep_versions) | ({present.version} if present else set())
    for version in sorted(kept.intersection(doomed)):
        role = "the champion" if present and present.version == version else "to be kept"
        raise StateError(f"model version {version} is {role} and contains an adapter to be erased; promote a clean version first")


def _erase_pictures(ws: Workspace, store: MlflowClient, compositions: Collection[Digest | None]) -> int:
    """The tag stays and says so: a reviewer sees that there was a picture and why it is gone."""
    experiment, num_erased = tracking.experiment_id(store), 0
    for run in tracking.all_pages(lambda token: store.search_runs([experiment], run_view_type=ViewType.ALL, page_token=token)):
        for tag, composition in run.data.tags.items():
            if tag.startswith(PICTURE_TAG) and composition in compositions:
                num_erased += _erase_folder(picture_folder(ws, run.info.run_id, tag.removeprefix(PICTURE_TAG)))
                store.set_tag(run.info.run_id, tag, "erased")
    return num_erased


def _erase_loose_adapters(ws: Workspace, tainted: Collection[Digest]) -> int:
    """Copies outside the models' folders: in a run's artifacts, or in what a crash left staged."""
    loose = [path for path in _files(ws.mlflow) if _models(ws) not in path.parents and _is_adapter(path, tainted)]
    for path in loose:
        path.unlink()
    return len(loose)


def _erase_rows(rows: SqlAlchemyStore, model_id: str) -> None:
    """What `mlflow gc --logged-model-ids` does to the database, for this model alone and whether or not it was hidden before.

    Also takes the link from its run, which `gc` leaves pointing nowhere.
    """
    with rows.ManagedSessionMaker(read_only=False) as session:
        session.query(SqlInput).filter_by(destination_type="MODEL_OUTPUT", destination_id=model_id).delete()
    try:
        rows._hard_delete_logged_model(model_id)  # type: ignore[no-untyped-call]  # MLflow's
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise


def _erase_folder(folder: Path) -> int:
    """Weights first; gives the number of files."""
    files = sorted(_files(folder), key=lambda path: path.suffix != ".safetensors")
    for path in files:
        path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return len(files)


def _models(ws: Workspace) -> Path:
    return ws.mlflow / "artifacts" / "models"


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]
