"""The registered model "lethe": one version a composition, and the alias "champion" on the one that serves.

A version's files are a loadable MLflow model whose weights are the adapters themselves: `composition.json`, one safetensors file a shard
and its centroids where the method needs them, with `served_model.py` as the code. Registering takes several MLflow calls, none of them
idempotent; each is therefore preceded by a search for the step's key, so that a second call finishes what a crash left half done and a
third does nothing.

The weights are staged inside the MLflow folder, not in /tmp: what a crash leaves there is found and erased with the rest.
`tasks.models.promotion` moves the alias.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import ColSpec, Schema

from cdm_core.composition.document import Composition, parse_composition
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from tasks.models import tracking
from tasks.models.tracking import MODEL
from tasks.workspace import Workspace

CHAMPION = "champion"
STAGING = "staging-"
"""How the folders begin in which a model's files are put together."""

Purpose = Literal["build", "stop", "forget", "learn"]

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "prompt", required=False), ColSpec("long", "seed")]),
    outputs=Schema([ColSpec("binary")]),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The version that serves, and the digest of its composition."""

    version: int
    composition: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """A composition and where its parts lie."""

    document: Composition
    adapters: Mapping[int, Path]
    centroids: Mapping[int, Path] | None


def register_composition(
    ws: Workspace,
    *,
    composition: bytes,
    adapters: Mapping[int, Path],
    centroids: Mapping[int, Path] | None = None,
    run_id: str,
    purpose: Purpose,
    step_key: str,
) -> int:
    """Register a composition as a new version, once a `step_key`; gives the version's number.

    Args:
        composition: its canonical JSON.
        adapters: by shard, the safetensors file of every expert.
        centroids: likewise; only the method `knn` reads them.
        run_id: the run that shows where the version came from.

    Raises:
        VerificationError: the composition is malformed, or a file is missing or isn't the one that it names.
        StateError: the step has registered another composition.
    """
    store = tracking.client(ws)
    document = parse_composition(composition)
    version = _find_version(store, step_key)
    if version is None:
        files = _Files(document=document, adapters=adapters, centroids=centroids)
        model = _ensure_model(ws, store, files, run_id, purpose, step_key)
        tags = {"composition": document.digest, "step_key": step_key, "purpose": purpose, "logged_model": model.model_id}
        # The plain location in place of models:/<id>: MLflow would resolve that through its process-wide tracking URI.
        version = store.create_model_version(MODEL, model.artifact_location, run_id=run_id, tags=tags)
    _require_same(version.tags, document.digest, step_key)
    # This tag is what the UI reads to link a logged model to its version.
    named = json.dumps([{"name": MODEL, "version": int(version.version)}])
    store.set_logged_model_tags(version.tags["logged_model"], {"mlflow.modelVersions": named})
    return int(version.version)


def champion(ws: Workspace) -> Champion | None:
    """The version that the alias points to; None before the first promotion."""
    store = tracking.client(ws)
    number = store.get_registered_model(MODEL).aliases.get(CHAMPION)
    if number is None:
        return None
    return Champion(version=int(number), composition=Digest(get_version(store, int(number)).tags["composition"]))


def composition_of(ws: Workspace, version: int) -> bytes:
    """The canonical JSON of a version's composition.

    Raises:
        StateError: there is no such version.
        VerificationError: the file isn't the one that was registered.
    """
    registered = get_version(tracking.client(ws), version)
    content = (_files_of(registered) / "composition.json").read_bytes()
    if sha256_digest(content) != registered.tags["composition"]:
        raise VerificationError(f"model version {version}: composition.json is not the one that was registered")
    return content


def adapters_of(ws: Workspace, version: int) -> dict[int, Path]:
    """A version's adapter files by shard; whoever loads one checks it against the composition.

    Raises:
        StateError: there is no such version.
    """
    folder = _files_of(get_version(tracking.client(ws), version)) / "adapters"
    return {int(path.stem.removeprefix("shard-")): path for path in folder.iterdir()}


def get_version(store: MlflowClient, version: int) -> ModelVersion:
    """A registered version.

    Raises:
        StateError: there is none.
    """
    try:
        return store.get_model_version(MODEL, str(version))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise StateError(f"model version {version}: not registered, or erased") from error


def _find_version(store: MlflowClient, step_key: str) -> ModelVersion | None:
    found = store.search_model_versions(f"name = '{MODEL}' and {tracking.tag_equals('step_key', step_key)}")
    return found[0] if found else None


def _ensure_model(ws: Workspace, store: MlflowClient, files: _Files, run_id: str, purpose: Purpose, step_key: str) -> LoggedModel:
    """The step's logged model with its files complete, and named as the run's output."""
    experiment, digest = tracking.experiment_id(store), files.document.digest
    found = store.search_logged_models([experiment], filter_string=tracking.tag_equals("step_key", step_key))
    tags = {"composition": str(digest), "step_key": step_key}
    model = found[0] if found else store.create_logged_model(experiment, f"{MODEL}-{purpose}", source_run_id=run_id, tags=tags)
    _require_same(model.tags, digest, step_key)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(dir=ws.mlflow, prefix=STAGING) as staging:
            _save_files(Path(staging), model, files, run_id)
            store.log_model_artifacts(model.model_id, f"{staging}/model")
        model = store.finalize_logged_model(model.model_id, "READY")
    outputs = store.get_run(run_id).outputs
    if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        store.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _save_files(staging: Path, model: LoggedModel, files: _Files, run_id: str) -> None:
    """Write the MLflow model to `staging/model`."""
    saved = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id)
    _save_model(staging, files.document.to_bytes(), saved)
    # Not through MLflow's `artifacts`, which would copy the weights to /tmp first.
    folder = staging / "model" / "artifacts"
    _copy_verified(files.adapters, folder / "adapters", {expert.shard: expert.adapter for expert in files.document.experts})
    if files.centroids is not None:
        named = {expert.shard: expert.centroids for expert in files.document.experts if expert.centroids is not None}
        _copy_verified(files.centroids, folder / "centroids", named)


def _save_model(staging: Path, composition: bytes, model: Model) -> None:
    (staging / "composition.json").write_bytes(composition)
    mlflow.pyfunc.save_model(
        path=str(staging / "model"),
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"composition": str(staging / "composition.json")},
        signature=_SIGNATURE,
        input_example=[{"prompt": "red heart", "seed": 0}],
        # A fixed list: without one MLflow finds out by loading the model in another process.
        pip_requirements=[f"mlflow=={mlflow.__version__}"],
    )


def _copy_verified(sources: Mapping[int, Path], folder: Path, digests: Mapping[int, Digest]) -> None:
    folder.mkdir()
    for shard, digest in digests.items():
        if shard not in sources:
            raise VerificationError(f"{folder.name}: no file for shard {shard} of the composition")
        content = sources[shard].read_bytes()
        if sha256_digest(content) != digest:
            raise VerificationError(f"{sources[shard]}: not the {folder.name} that the composition names for shard {shard}")
        (folder / f"shard-{shard}.safetensors").write_bytes(content)


def _files_of(version: ModelVersion) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{version.source}/artifacts"))


def _require_same(tags: Mapping[str, str], digest: Digest, step_key: str) -> None:
    if tags.get("composition") != digest:
        raise StateError(f"step {step_key}: already registered composition {tags.get('composition')}, not {digest}")
