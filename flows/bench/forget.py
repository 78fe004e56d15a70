"""`lethe bench forget`: what a trace of withdrawals costs a monolith, CDM, SISA and Lethe, on the same data, in one run.

Steps are exact and over the whole trace; they are counted, and the requests are carried out K at a time for each K. Wall seconds are
measured on the first `timed` groups of each K, by training them, each without the owners of the groups before it, as it is counted, each
adapter in a process of one thread and as many processes as cores; a share is of the monolith's seconds for the same groups; with `timed` 0
nothing is trained. Nothing but training is in them: what a whole forget takes, with the stop, the evaluation and the purge, is
`total_seconds` of `lethe submit`. Where every owner leaves at once the monolith has nothing left to train, and nothing is a share of it.

A trace draws owners without replacement, the likeliest first on average: the longer it is, the colder the owners that are left, and the
dearer the next request. So steps are also told for the first 10, 20, 40 requests, one at a time.

All of that is of the workspace's own secret. So Lethe's share of the monolith's steps is counted under other secrets, too
(`cdm_core.sharding.redraws`): median, least and most.
"""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import accumulate, islice
from pathlib import Path

import pandas as pd
from rich.table import Table

from cdm_core.errors import InvalidInputError
from cdm_core.settings import Settings
from cdm_core.sharding.redraws import spread_shares
from cdm_core.sharding.retraining_sides import SIDES, Side, SideRules, count_groups, draw_trace, group_trace, mean_passes, share_of
from flows.console import progress_bars, stdout
from tasks.files import check_writable, write_output
from tasks.plots.forget_plot import draw_forget_plot
from tasks.training.retraining_bench import load_rows, time_retrainings, warm_up
from tasks.training.workers import worker_pool
from tasks.workspace import open_workspace

LENGTHS = (10, 20, 40)
"""Of a trace's beginnings."""

Document = dict[str, object]
Row = dict[str, object]


def run_bench_forget(
    directory: Path, *, requests: int, batches: list[int], timed: int, seed: int, redraws: int, plot: Path | None
) -> Document:
    """Count and time all sides."""
    ws = open_workspace(directory)
    if plot is not None:
        check_writable(plot)
    rows, settings = load_rows(ws), ws.settings()
    try:
        trace = draw_trace(rows, settings, requests, seed)
    except ValueError as error:
        raise InvalidInputError(f"requests: {error}") from error
    if unfit := [batch for batch in batches if not 1 <= batch <= requests]:
        raise InvalidInputError(f"batch: {unfit[0]} is not between 1 and the {requests} requests")
    passes = mean_passes(rows, settings)
    rules = {side: SideRules(side=side, settings=settings, passes=passes) for side in SIDES}
    groups = {batch: list(islice(group_trace(rows, trace, batch), timed)) for batch in batches}
    work = [(batch, side, rules[side].forget(left, group)) for batch in batches for side in SIDES for left, group in groups[batch]]
    todo = [(batch, side, retrainings) for batch, side, retrainings in work if rules[side].count_steps(retrainings)]
    seconds = dict.fromkeys([(batch, side) for batch in batches for side in SIDES], 0.0)
    if todo:
        total = sum(rules[side].count_steps(retrainings) for _, side, retrainings in todo)
        with progress_bars({"steps": total}) as advance, worker_pool(on_progress=advance) as pool:
            for future in [pool.submit(warm_up, ws) for _ in range(8)]:
                future.result()
            for batch, side, retrainings in todo:
                seconds[batch, side] += time_retrainings(pool, ws, rules[side], rows, retrainings)
    by_batch: dict[str, list[Row]] = {}
    for batch in batches:
        steps = {side: sum(count_groups(rules[side], rows, trace, batch)) for side in SIDES}
        by_batch[str(batch)] = [
            {
                "name": side,
                "steps": steps[side],
                "steps_share": share_of(steps[side], steps["monolith"]),
                "steps_per_request": steps[side] / len(trace),
                "wall_seconds": seconds[batch, side] if work else None,
                "wall_share": share_of(seconds[batch, side], seconds[batch, "monolith"]) if work else None,
            }
            for side in SIDES
        ]
    document: Document = {
        "samples": len(rows),
        "owners": int(rows["owner_key"].nunique()),
        "shards": len(settings.shard_ids),
        "stages": settings.stages,
        "requests": len(trace),
        "seed": seed,
        "timed_groups": timed,
        "passes": passes,
        "steps_full_build": {side: rules[side].count_steps(rules[side].build(rows)) for side in SIDES},
        "sides": by_batch[str(batches[0])],
        "by_batch": by_batch,
        "by_requests": _count_beginnings(rules, rows, trace),
        "redraws": _spread(rows, settings, requests, seed, redraws),
    }
    if plot is not None:
        write_output(plot, draw_forget_plot({batch: by_batch[str(batch)] for batch in batches}))
        document["plot"] = str(plot)
    return document


def _beginnings(requests: int) -> list[int]:
    return [*(num for num in LENGTHS if num < requests), requests]


def _count_beginnings(rules: Mapping[Side, SideRules], rows: pd.DataFrame, trace: list[str]) -> dict[str, list[Row]]:
    totals = {side: list(accumulate(count_groups(of_side, rows, trace, 1))) for side, of_side in rules.items()}
    return {
        str(num): [
            {"name": side, "steps": steps[num - 1], "steps_share": share_of(steps[num - 1], totals["monolith"][num - 1])}
            for side, steps in totals.items()
        ]
        for num in _beginnings(len(trace))
    }


def _spread(rows: pd.DataFrame, settings: Settings, requests: int, seed: int, redraws: int) -> Document:
    with progress_bars({"other secrets": redraws} if redraws else {}) as advance:
        spread = spread_shares(
            rows, settings, _beginnings(requests), seed=seed, redraws=redraws, on_redraw=lambda: advance("other secrets", 1)
        )
    return {"count": redraws, "by_requests": {str(num): asdict(of) for num, of in spread.items()}}


def print_forget_table(document: Document) -> None:
    """The sides beside one another, for people."""
    by_batch = document["by_batch"]
    assert isinstance(by_batch, dict), "made above"
    table = Table(title=f"{document['requests']} withdrawals of {document['owners']} owners", title_justify="left")
    table.add_column("together", justify="right")
    table.add_column("side", no_wrap=True)
    for name in ("steps", "of the monolith", "seconds", "of the monolith"):
        table.add_column(name, justify="right")
    for batch, sides in by_batch.items():
        for side in sides:
            seconds = "–" if side["wall_seconds"] is None else f"{side['wall_seconds']:.1f}"
            shares = _percent(side["steps_share"]), _percent(side["wall_share"])
            table.add_row(str(batch), str(side["name"]), f"{side['steps']:,}", shares[0], seconds, shares[1])
    stdout().print(table)
    by_requests = document["by_requests"]
    assert isinstance(by_requests, dict), "made above"
    beginnings = Table(title="Steps of the monolith's, one request at a time", title_justify="left")
    beginnings.add_column("side", no_wrap=True)
    for num in by_requests:
        beginnings.add_column(f"first {num}", justify="right")
    for row, name in enumerate(SIDES):
        beginnings.add_row(name, *(_percent(sides[row]["steps_share"]) for sides in by_requests.values()))
    stdout().print(beginnings)
    redraws = document["redraws"]
    assert isinstance(redraws, dict), "made above"
    if redraws["by_requests"]:
        spread = Table(title=f"Lethe's steps of the monolith's, under {redraws['count']} other secrets", title_justify="left")
        spread.add_column("", no_wrap=True)
        for num in redraws["by_requests"]:
            spread.add_column(f"first {num}", justify="right")
        for name in ("median", "least", "most"):
            spread.add_row(name, *(_percent(of[name]) for of in redraws["by_requests"].values()))
        stdout().print(spread)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
