"""One MLflow run a request: what a reviewer reads in a minute.

The note on top says what was asked, what was hit, what was reused and the verdict; below it stand the metrics before and after, the
pictures from the same seeds, the distance over all versions, and the signed records. Nothing here is evidence: the records are, and
they verify without MLflow.

Every call may be repeated after a crash: the run is found by its step's key, artifacts overwrite themselves, and metrics carry the
run's own start as their time, so that a repeated point is the same point.

A picture is an output of the weights that drew it. Its run therefore carries a tag `picture/<name>` with the digest of the composition,
by which `tasks.deletion.mlflow_erasure` finds the pictures to erase.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from cdm_core.digests import Digest
from cdm_core.errors import StateError
from tasks.models import tracking
from tasks.workspace import Workspace

FRECHET_DISTANCE = "frechet_distance"
"""The metric that `log_distance_chart` follows over the versions."""

PICTURE_TAG = "picture/"
_PICTURES = "pictures"

_CLEARED = ("pass", "accepted")
_LISTED = 12  # so many shards or records are named in a note, the rest counted


Verdict = Literal["pass", "fail", "inconclusive", "accepted", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG grid, and the composition that drew it."""

    path: Path
    composition: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """What the note says. Distances are Fréchet distances; `margin` is the tolerated relative rise, 0.05 for 5 %.

    `fd_before` and `stopped_version` are None where there was no champion before, or nothing was stopped.
    """

    kind: Literal["build", "forget", "learn", "review"]
    request_id: str | None
    verdict: Verdict
    fd_before: float | None
    fd_after: float
    margin: float
    shards_hit: Sequence[int]
    shards_reused: Sequence[int]
    samples_removed: int
    samples_added: int
    steps_retrained: int
    steps_full_build: int
    stopped_version: int | None
    model_version: int
    record_names: Sequence[str]


def build_note(summary: AuditSummary) -> str:
    """The note, as markdown."""
    cleared = summary.verdict in _CLEARED
    rows = {
        "Asked": _asked(summary),
        "Hit": _listing("shard", summary.shards_hit),
        "Reused": f"{_listing('shard', summary.shards_reused)}, byte for byte" if summary.shards_reused else "nothing",
        "Work": f"{summary.steps_retrained:,} training steps; a full build takes {summary.steps_full_build:,}",
        "Stopped": f"version {summary.stopped_version} served without the data while retraining" if summary.stopped_version else "",
        "Quality": _quality(summary),
        "Verdict": f"**{summary.verdict}**: version {summary.model_version} {'may serve' if cleared else 'may not serve'}",
        "Serving": _serving(summary),
        "Records": _listing("", [_code(name) for name in summary.record_names]),
    }
    table = [f"| {name} | {text} |" for name, text in rows.items() if text]
    return "\n".join([f"## {summary.kind.capitalize()}: {summary.verdict}", "", "| | |", "|---|---|", *table, ""])


def open_run(ws: Workspace, *, name: str, step_key: str, tags: Mapping[str, str]) -> str:
    """The id of the step's run, made if it isn't there."""
    store = tracking.client(ws)
    experiment = tracking.experiment_id(store)
    found = store.search_runs([experiment], tracking.tag_equals("step_key", step_key), max_results=1)
    run = found[0] if found else store.create_run(experiment, run_name=name, tags={**tags, "step_key": step_key})
    return str(run.info.run_id)


def log_audit(
    ws: Workspace,
    run_id: str,
    *,
    note: str,
    model_version: int,
    tags: Mapping[str, str],
    metrics_before: Mapping[str, float],
    metrics_after: Mapping[str, float],
    pictures: Mapping[str, Picture],
    records: Sequence[Path],
    documents: Sequence[Path] = (),
) -> None:
    """Fill a run.

    Args:
        note: markdown, shown on top of the run's page.
        model_version: the version that was evaluated; the metrics' step.
        metrics_before: named alike in both, shown as `before/<name>` and `after/<name>`.
        pictures: by name; each is kept in the folder `pictures/<name>/`.
        records: signed records, kept under `records/`.
        documents: anything else to read, kept under `documents/`.
    """
    store = tracking.client(ws)
    start = store.get_run(run_id).info.start_time
    named = {f"before/{name}": value for name, value in metrics_before.items()} | {f"after/{name}": v for name, v in metrics_after.items()}
    drawn_by = {f"{PICTURE_TAG}{name}": str(picture.composition) for name, picture in pictures.items()}
    all_tags = {**tags, **drawn_by, "model_version": str(model_version), "mlflow.note.content": note}
    store.log_batch(
        run_id,
        metrics=[Metric(name, value, start, model_version) for name, value in named.items()],
        tags=[RunTag(name, value) for name, value in all_tags.items()],
    )
    for name, picture in pictures.items():
        store.log_artifact(run_id, str(picture.path), f"{_PICTURES}/{name}")
    for path in records:
        store.log_artifact(run_id, str(path), "records")
    for path in documents:
        store.log_artifact(run_id, str(path), "documents")


def log_distance_chart(ws: Workspace, run_id: str) -> None:
    """Draw the Fréchet distance of every version evaluated so far into the run, as a picture and as a metric over versions.

    Raises:
        StateError: no run has logged one.
    """
    from matplotlib.figure import Figure  # imported here: a second, and a stop draws nothing
    from matplotlib.ticker import MaxNLocator

    store = tracking.client(ws)
    distances = _distances_by_version(store)
    if not distances:
        raise StateError(f"no run has logged after/{FRECHET_DISTANCE}: there is nothing to draw")
    figure = Figure(figsize=(7, 3.5))
    axes = figure.subplots(gridspec_kw={"bottom": 0.15, "right": 0.97})
    axes.plot(list(distances), list(distances.values()), marker="o")
    axes.set(xlabel="model version", ylabel="Fréchet distance (lower is better)", title="Distance to the reference over versions")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    store.log_figure(run_id, figure, f"charts/{FRECHET_DISTANCE}.png")
    start = store.get_run(run_id).info.start_time
    store.log_batch(run_id, metrics=[Metric(FRECHET_DISTANCE, value, start, version) for version, value in distances.items()])


def picture_folder(ws: Workspace, run_id: str, name: str) -> Path:
    """Where a run keeps the picture of that name."""
    return ws.mlflow / "artifacts" / run_id / "artifacts" / _PICTURES / name


def end_run(ws: Workspace, run_id: str, status: Literal["FINISHED", "FAILED"]) -> None:
    """Close the run."""
    tracking.client(ws).set_terminated(run_id, status)


def _distances_by_version(store: MlflowClient) -> dict[int, float]:
    """In the order of the versions; the latest run counts where two evaluated the same one."""
    experiment, metric = tracking.experiment_id(store), f"after/{FRECHET_DISTANCE}"
    runs = tracking.all_pages(lambda token: store.search_runs([experiment], order_by=["attributes.start_time ASC"], page_token=token))
    found = {int(run.data.tags["model_version"]): run.data.metrics[metric] for run in runs if metric in run.data.metrics}
    return dict(sorted(found.items()))


def _asked(summary: AuditSummary) -> str:
    changes = [(summary.samples_removed, "removed"), (summary.samples_added, "added")]
    told = " and ".join(f"{number:,} {'sample' if number == 1 else 'samples'} {verb}" for number, verb in changes if number)
    request = f"request {_code(summary.request_id)}" if summary.request_id else summary.kind
    return f"{request}: {told}" if told else request


def _quality(summary: AuditSummary) -> str:
    if summary.fd_before is None:
        return f"Fréchet distance {summary.fd_after:.1f}, nothing to compare with"
    rise = summary.fd_after / summary.fd_before - 1
    return f"Fréchet distance {summary.fd_before:.1f} → {summary.fd_after:.1f} ({rise:+.1%}; tolerated {summary.margin:+.1%})"


def _serving(summary: AuditSummary) -> str:
    """Empty where the verdict says it, or there is no other version."""
    if summary.verdict in _CLEARED or (summary.stopped_version is None and summary.fd_before is None):
        return ""
    version = f"version {summary.stopped_version}" if summary.stopped_version else "the version before"
    return version if summary.verdict == "rejected" else f"{version}, until a person decides"


def _listing(noun: str, items: Sequence[object]) -> str:
    """ "shards 0, 1, 2 and 30 more"."""
    if not items:
        return "nothing"
    plural = f"{noun}s" if noun and len(items) > 1 else noun
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{plural} {', '.join(str(item) for item in items[:_LISTED])}{more}".strip()


def _code(text: str) -> str:
    """Text from outside, so that it can neither close the code span nor break the table."""
    return f"`{''.join(character for character in text if character.isprintable() and character not in '`|')}`"
