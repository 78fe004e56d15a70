"""The history of a pretraining run: an MLflow store of its own, in the folder that the run writes to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.tracking import MlflowClient

from cdm_core.errors import InvalidInputError

_EXPERIMENT = "pretraining"
LOSS = "loss"
"""The metric of the loss curve; its step counts optimiser steps over all runs that went on from one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingHistory:
    """What a folder's runs logged: (step, loss) in order, and the batch size."""

    losses: tuple[tuple[int, float], ...]
    batch_size: int


@contextmanager
def training_run(folder: Path, name: str, parameters: Mapping[str, object]) -> Iterator[Callable[[str, float, int], None]]:
    """A run in the folder's store; yields log(metric, value, step)."""
    client = MlflowClient(tracking_uri=_store_uri(folder))
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    artifacts = (folder.resolve() / "artifacts").as_uri()
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(_EXPERIMENT, artifacts)
    run_id = client.create_run(experiment_id, run_name=name).info.run_id
    for parameter, value in parameters.items():
        client.log_param(run_id, parameter, value)

    def log(metric: str, value: float, step: int) -> None:
        client.log_metric(run_id, metric, value, step=step)

    try:
        yield log
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def read_history(folder: Path) -> TrainingHistory:
    """The losses of the backbone's runs in a folder.

    Raises:
        InvalidInputError: the folder has no store, or no such run in it.
    """
    if not (folder / "mlflow.db").is_file():
        raise InvalidInputError(f"{folder}: no mlflow.db here; give the folder that `lethe pretrain backbone` wrote")
    client = MlflowClient(tracking_uri=_store_uri(folder))
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]) if experiment else []
    losses: dict[int, float] = {}
    for run in runs:
        # A later run wins: it went on from the last saved state, and did again what had not been saved.
        losses |= {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, LOSS)}
    if not losses or "batch_size" not in runs[-1].data.params:
        raise InvalidInputError(f"{folder}: its mlflow.db has no run of `lethe pretrain backbone`")
    return TrainingHistory(losses=tuple(sorted(losses.items())), batch_size=int(runs[-1].data.params["batch_size"]))


def _store_uri(folder: Path) -> str:
    return f"sqlite:///{folder.resolve()}/mlflow.db"
