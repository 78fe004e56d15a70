"""`lethe plan-shards`: the workspace's stages beside other plans, and what a deletion is expected to cost under each."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from flows.console import stdout, tell
from tasks.workspace import open_workspace

if TYPE_CHECKING:
    from tasks.plans.stage_planning import StagePlan


def run_plan_shards(directory: Path, batch: int, *, show_table: bool) -> dict[str, object]:
    """Work the plans out; changes nothing."""
    from tasks.plans.stage_planning import build_stage_plan

    plan = build_stage_plan(open_workspace(directory), batch)
    if show_table:
        _print_plan(plan)
    return asdict(plan)


def _print_plan(plan: "StagePlan") -> None:
    together = "one deletion" if plan.batch == 1 else f"{plan.batch} deletions together"
    costs = Table(title=f"Expected training for {together}", title_justify="left")
    costs.add_column("plan", no_wrap=True)
    for name in ("stages", "steps", "steps a deletion", "of a shard", "of the monolith"):
        costs.add_column(name, justify="right")
    for row in plan.alternatives:
        costs.add_row(
            row.name,
            str(row.stages),
            f"{row.expected_steps:.1f}",
            f"{row.expected_steps_per_deletion:.1f}",
            f"{row.share_of_shard:.1%}",
            f"{row.share_of_monolith:.2%}",
        )
    stdout().print(costs)
    stages = Table(title="The chosen stages", title_justify="left")
    stages.add_column("stage", justify="right")
    stages.add_column("tiers", no_wrap=True)
    for name in ("yearly rate", "owners", "samples", "epochs", "steps", "hit first"):
        stages.add_column(name, justify="right")
    for stage in plan.stages:
        rate = f"{stage.yearly_rate:.3g}" if stage.tiers else "not known"
        numbers = (stage.owners, stage.samples, stage.epochs, stage.steps)
        stages.add_row(str(stage.stage), ", ".join(stage.tiers), rate, *map(str, numbers), f"{stage.deletions_share:.1%}")
    stdout().print(stages)
    tell(f"A shard trains for {plan.steps_shard:.0f} steps on average, the monolith for {plan.steps_monolith}.")
