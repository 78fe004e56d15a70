"""`lethe report paper`: the paper's tables and figures, on this workspace's data.

1. Look at every real picture: features and CLIP embeddings.
2. Train the adapters: the paragon, two, four and eight splits by owner, eight by group, and the classifier of each.
3. One section after the other: make the pictures that it needs and the cache lacks, measure, and write page and figures as far as they are.

What is expensive is kept under its content's digest (`tasks.paper_report.cache`), so that a run that was cut short goes on where it was.
It holds no flow lock: requests are carried out meanwhile, and then the report ends, since its data changed.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from cdm_core.digests import Json
from cdm_core.errors import InvalidInputError
from cdm_core.fingerprint import NUM_THREADS
from flows.console import print_document, progress_bars
from tasks.clock import utc_now
from tasks.data.openmoji import caption_groups
from tasks.evidence.hardware import describe_hardware
from tasks.files import check_writable, write_output
from tasks.paper_report.alignments import (
    alignment_models,
    coverage_models,
    coverage_requests,
    describe_alignment,
    describe_coverage,
    farthest_part,
    measure_alignment,
)
from tasks.paper_report.credits import credit_all, describe_credit, leave_out_orders
from tasks.paper_report.experts import overfit_recipe, train_recipe
from tasks.paper_report.models import SplitModel, bare_model, compose_split
from tasks.paper_report.overfitting import describe_memorisation, overfit_orders, overfit_requests, overfit_split, why_left_out
from tasks.paper_report.page import goals_of, render_page
from tasks.paper_report.references import References
from tasks.paper_report.samples import Model, Order, count_missing, make_all
from tasks.paper_report.study import (
    BY_GROUP,
    BY_OWNER,
    PARAGON,
    SPLITS,
    Budget,
    Study,
    compose_all,
    count_training_steps,
    look_at_all,
    open_study,
    train_all,
    train_classifiers,
)
from tasks.paper_report.tables import (
    describe_drops,
    describe_table,
    drop_models,
    measure_models,
    orders_of,
    real_pictures,
    reference_of,
    table_models,
)
from tasks.training.workers import worker_pool
from tasks.workspace import open_workspace

PAGE = "paper-report.html"
Document = dict[str, Json]


@dataclass(slots=True, kw_only=True)
class _Run:
    """What the steps of one report share; `advance` is the open progress bars'."""

    pool: Executor
    study: Study
    relay: "_Relay"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, totals: Mapping[str, int | None]) -> Iterator[None]:
        """Show bars, and take the time."""
        started = time.monotonic()
        with progress_bars(totals) as self.relay.advance:
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def make(self, name: str, orders: Sequence[Order]) -> None:
        """Make the pictures of some orders."""
        with self.stage(name, {"pictures": count_missing(self.study.cache, orders, self.study.code)}):
            make_all(self.pool, self.study.cache, orders, self.study.code)


@dataclass(slots=True)
class _Relay:
    """The worker pool has one callback for its life; bars come and go with the stages."""

    advance: Callable[[str, int], None] = lambda name, amount: None

    def __call__(self, name: str, amount: int) -> None:
        self.advance(name, amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What the sections measure."""

    references: References
    models: dict[str, SplitModel]


def run_report_paper(directory: Path, out: Path, budget: Budget, sections: Sequence[str], splits: Sequence[str]) -> Document:
    """Make the report; `out` is a folder or the page's file, and the figures go beside it as JSON."""
    torch.set_num_threads(NUM_THREADS)
    if unknown := [section for section in sections if section not in SECTIONS]:
        raise InvalidInputError(f"sections: {unknown[0]} is not one of {', '.join(SECTIONS)}")
    if unknown := [split for split in splits if split not in SPLITS]:
        raise InvalidInputError(f"splits: {unknown[0]} is not one of {', '.join(SPLITS)}")
    ws, page = open_workspace(directory), _page_file(out)
    study, relay = open_study(ws, budget), _Relay()
    with worker_pool(on_progress=relay) as pool:
        run = _Run(pool=pool, study=study, relay=relay)
        material = _prepare(run, sections, [split for split in SPLITS if split == BY_OWNER or split in splits])
        document = _head(run, material)
        for section in [name for name in SECTIONS if name in sections]:
            document[section] = SECTIONS[section](run, material)
            document["seconds"] = {name: round(seconds, 1) for name, seconds in run.seconds.items()}
            document["total_seconds"] = round(sum(run.seconds.values()), 1)
            _write(page, document)
    return _summary(page, document)


def _prepare(run: _Run, sections: Sequence[str], cuts: Sequence[str]) -> _Material:
    study, splits = run.study, [PARAGON, *cuts]
    with run.stage("looking at the data", {"reference pictures": len(study.rows)}):
        references = look_at_all(run.pool, study)
    with run.stage("training", {"training steps": count_training_steps(study, splits)}):
        trained = train_all(run.pool, study, splits)
    steps = study.budget.classifier_steps
    names = [split for split in splits if split != PARAGON] if {"table_1", "table_2"} & set(sections) else []
    with run.stage("classifiers", {"classifier steps": len(names) * steps}):
        classifiers = train_classifiers(run.pool, study, names)
    return _Material(references=references, models=compose_all(study, references, trained, classifiers))


def _head(run: _Run, material: _Material) -> Document:
    study = run.study
    return {
        "schema": "lethe/paper-report/v1",
        "made_at": utc_now().isoformat(timespec="seconds"),
        "data": study.cache.data,
        "samples": len(study.rows),
        "owners": int(study.rows["owner_key"].nunique()),
        "budget": asdict(study.budget),
        "epochs": [study.settings.training.stage_epochs(stage) for stage in range(study.settings.stages)],
        "sampling_steps": study.settings.sampling.steps,
        "hardware": describe_hardware(torch.backends.cpu.get_cpu_capability()),
        "splits": {
            name: {
                "steps": sum(recipe.steps for recipe in study.recipes(name)),
                "parts": [{"number": part.number, "name": part.name, "samples": len(part.rows)} for part in model.split.parts],
            }
            for name, model in material.models.items()
        },
    }


def _table_1(run: _Run, material: _Material) -> Json:
    study, models = run.study, material.models
    splits = [name for name in models if name != PARAGON]
    cells: dict[str, Model] = table_models(models[PARAGON], [models[name] for name in splits])
    run.make("table 1", orders_of(cells, study.requests))
    reference = reference_of(material.references)
    measured = measure_models(study.cache, cells, study.requests, reference, study.blocks, study.code)
    real = real_pictures(material.references, len(study.requests), reference, study.blocks)
    return describe_table(measured, real, splits, len(study.requests), BY_OWNER)


def _figure_2(run: _Run, material: _Material) -> Json:
    study, drawn = run.study, []
    for name in _kinds(material):
        models = drop_models(material.models[name])
        run.make("figure 2", orders_of(models, study.requests))
        measured = measure_models(study.cache, models, study.requests, reference_of(material.references), study.blocks, study.code)
        drawn.append(describe_drops(material.models[name], measured))
    return {"num_samples": len(study.requests), "splits": drawn}


def _table_2(run: _Run, material: _Material) -> Json:
    study, models = run.study, material.models
    cells = alignment_models(models[PARAGON], [models[name] for name in _kinds(material)])
    run.make("table 2", orders_of(cells, study.requests))
    classes = caption_groups("subgroup")
    measured = {
        name: measure_alignment(study.cache, model, study.requests, material.references, classes, study.code)
        for name, model in cells.items()
    }
    return describe_alignment(measured, material.references, len(study.requests), BY_OWNER)


def _figure_3(run: _Run, material: _Material) -> Json:
    study, drawn = run.study, []
    requests = study.requests[: study.budget.attributed]
    for name in _kinds(material):
        split = material.models[name]
        run.make("figure 3", leave_out_orders(split, requests))
        with run.stage("figure 3", {"attributed": len(requests)}):
            credited = credit_all(run.pool, study.cache, split, requests, study.budget.draws, study.code)
        drawn.append(describe_credit(study.cache, split, credited, requests, study.code))
    return {"num_pictures": len(requests), "draws": study.budget.draws, "splits": drawn}


def _figure_4a(run: _Run, material: _Material) -> Json:
    study, models = run.study, material.models
    if BY_GROUP not in models:
        return {"left_out": f"needs the split {BY_GROUP}"}
    split = models[BY_GROUP]
    if len(split.split.parts) < 2:
        return {"left_out": "pictures of one group only: there is nothing out of domain"}
    part, classes = farthest_part(split, material.references), caption_groups()
    asked = coverage_requests(split, material.references, part, max(4, 3 * len(study.requests) // 8))
    cells = coverage_models(models[PARAGON], split, part)
    run.make("figure 4A", [order for requests in asked.values() for order in orders_of(cells, requests)])
    measured = {
        name: {
            kind: measure_alignment(study.cache, model, requests, material.references, classes, study.code)
            for kind, requests in asked.items()
        }
        for name, model in cells.items()
    }
    return describe_coverage(part, measured, len(asked["outside"]))


def _figure_4b(run: _Run, material: _Material) -> Json:
    study = run.study
    cut = overfit_split(study.splits[BY_OWNER], study.rows)
    if reason := why_left_out(cut, study.rows):
        return {"left_out": reason}
    recipes = [
        overfit_recipe(part.number, study.part_rows(part), study.settings.training, study.budget.overfit_steps) for part in cut.parts
    ]
    with run.stage("figure 4B", {"training steps": sum(recipe.steps for recipe in recipes)}):
        trained = [future.result() for future in [run.pool.submit(train_recipe, study.cache, recipe) for recipe in recipes]]
    split = compose_split(study.cache, study.settings, material.references, cut, trained, None)
    requests = overfit_requests(cut, study.rows, max(4, len(study.requests) // 2))
    orders = overfit_orders(split, bare_model(split), requests)
    run.make("figure 4B", [order for each in orders.values() for order in each])
    return describe_memorisation(study.cache, split, study.rows, orders, sum(recipe.steps for recipe in recipes), study.code)


def _kinds(material: _Material) -> list[str]:
    """The finest split of each kind that is there: near shards, and near and far ones."""
    return [name for name in (BY_OWNER, BY_GROUP) if name in material.models]


Section = Callable[[_Run, _Material], Json]
SECTIONS: dict[str, Section] = {
    "table_1": _table_1,
    "figure_2": _figure_2,
    "table_2": _table_2,
    "figure_3": _figure_3,
    "figure_4a": _figure_4a,
    "figure_4b": _figure_4b,
}


def _page_file(out: Path) -> Path:
    page = check_writable(out if out.suffix == ".html" else out / PAGE)
    check_writable(page.with_suffix(".json"))
    return page


def _write(page: Path, document: Document) -> None:
    write_output(page.with_suffix(".json"), (json.dumps(document, indent=2) + "\n").encode())
    write_output(page, render_page(document).encode())


def print_report(document: Document) -> None:
    """Where it lies, and how the goals fared."""
    lines = {name: document[name] for name in ("page", "figures", "total_seconds")}
    print_document({**lines, "goals": [{"goal": each.name, "verdict": each.verdict} for each in goals_of(document)]})


def _summary(page: Path, document: Document) -> Document:
    return {"page": str(page), "figures": str(page.with_suffix(".json")), **document}
