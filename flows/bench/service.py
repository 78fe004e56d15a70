"""`lethe bench service`: what whole forgets take beside a running server, from the request to the signed closing record.

It makes a workspace of OpenMoji, builds it and keeps a copy; then, beside a `lethe serve` of its own, `lethe submit` carries out single
withdrawals, each when the server's process waits for it, and in a fresh copy the whole trace in one file. All are ordinary commands in
processes of their own, and all times are those that their answers give, but for the command's own, which is measured around it.

Of a trace drawn by the tiers' rates every n-th owner withdraws alone; the mean of these stands for the mean of all, that nobody has to wait
for every one. A folder that holds the built workspace already is measured again without building.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.table import Table

from cdm_core.errors import InvalidInputError
from cdm_core.sharding.forget_times import compare_forgets
from cdm_core.sharding.partition import compute_owner_key
from cdm_core.sharding.retraining_sides import draw_trace
from flows.bench.served_copy import Served, run_lethe, served_copy
from flows.console import progress_bars, stdout
from tasks.clock import utc_now
from tasks.data.openmoji import owner_ids
from tasks.keys import owner_secret
from tasks.training.retraining_bench import load_rows
from tasks.workspace import Workspace, open_workspace

ISSUER = "bench"
_OURS = {"built", "workspace", "requests", "serve.log"}

Document = dict[str, Any]


def run_bench_service(directory: Path, *, requests: int, every: int, seed: int) -> Document:
    """Measure in `directory`: every `every`-th of `requests` withdrawals alone, then all in one file.

    Raises:
        InvalidInputError: something else is in the folder, or there are fewer owners than requests.
        StateError: a command failed, or the server did.
    """
    root = directory.resolve()
    found = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if (root.exists() and not root.is_dir()) or found - _OURS or (found and "built" not in found):
        raise InvalidInputError(f"{root}: is neither an empty folder nor one that this command made")
    singles = range(0, requests, every)
    with progress_bars({"commands": len(singles) + (1 if (root / "built").is_dir() else 4)}) as advance:
        if not (root / "built").is_dir():
            for arguments in (["init", str(root / "workspace")], ["build"], ["keys", "add-issuer", ISSUER]):
                run_lethe(root / "workspace", *arguments)
                advance("commands", 1)
            (root / "workspace").rename(root / "built")
        trace = _draw_owners(open_workspace(root / "built"), requests, seed)
        alone: list[Document] = []
        with served_copy(root / "built", root / "workspace", root / "serve.log") as served:
            for number in singles:
                alone.append(_submit(served, root, trace[number : number + 1]))
                advance("commands", 1)
        with served_copy(root / "built", root / "workspace", root / "serve.log") as served:
            together = _submit(served, root, trace)
            advance("commands", 1)
    return compare_forgets(alone, together) | {"seed": seed, "every": every}


def _draw_owners(ws: Workspace, requests: int, seed: int) -> list[str]:
    """Ids of the owners of a trace, in order."""
    secret = owner_secret(ws)
    ids: dict[str, str] = {compute_owner_key(secret, owner_id): owner_id for owner_id in owner_ids()}
    try:
        return [ids[key] for key in draw_trace(load_rows(ws), ws.settings(), requests, seed)]
    except ValueError as error:
        raise InvalidInputError(f"requests: {error}") from error


def _submit(served: Served, root: Path, owners: Sequence[str]) -> Document:
    """What the withdrawal of these owners in one file took, begun when the server's process waits for it."""
    request = root / "requests" / f"{uuid4()}.csv"
    request.parent.mkdir(exist_ok=True)
    rows = [f"{uuid4()},{ISSUER},gdpr,{utc_now().isoformat(timespec='seconds')},{owner_id}," for owner_id in owners]
    request.write_text("\n".join(["request_id,issuer,regulation,submitted_at,owner_id,sample_id", *rows, ""]))
    run_lethe(served.ws.root, "sign", str(request), "--issuer", ISSUER)
    served.wait_until_ready()
    started = time.monotonic()
    answer = run_lethe(served.ws.root, "submit", str(request))
    seconds = time.monotonic() - started
    answers: list[Document] = answer["requests"] if len(owners) > 1 else [answer]
    last = max(answers, key=lambda one: float(one["total_seconds"]))
    return {
        "requests": len(answers),
        "statuses": sorted({str(one["status"]) for one in answers}),
        "stop_seconds": last["stop_seconds"],
        "training_seconds": last["training_seconds"],
        "evaluation_seconds": last["evaluation_seconds"],
        "total_seconds": last["total_seconds"],
        "command_seconds": seconds,
        "peak_memory_mb": last["peak_memory_mb"],
    }


def print_service_table(document: Document) -> None:
    """The runs beside one another, for people. Of those together the training is that of all shards, which train in parallel."""
    table = Table(title="Whole forgets beside lethe serve", title_justify="left")
    for name in ("requests", "stop s", "training s", "evaluation s", "whole s", "of training", "of both", "memory MB"):
        table.add_column(name, justify="right")
    for run in [*sorted(document["singles"], key=lambda run: float(run["training_seconds"])), document["together"]]:
        seconds = (f"{run[f'{name}_seconds']:.1f}" for name in ("stop", "training", "evaluation", "total"))
        ratios = (_show(run.get(name)) for name in ("of_training", "of_training_and_evaluation"))
        table.add_row(str(run["requests"]), *seconds, *ratios, f"{run['peak_memory_mb']:.0f}")
    stdout().print(table)
    alone, both, together = document["of_training"], document["of_training_and_evaluation"], document["together"]
    stdout().print(
        f"singles, median and all together: {_show(alone['median'])} and {_show(alone['all'])} times their training, "
        f"{_show(both['median'])} and {_show(both['all'])} times training and evaluation; beside training "
        f"{document['beside_training_seconds']:.1f} s, beside both {document['orchestration_seconds']:.1f} s in the median\n"
        f"{together['requests']} in one file: {document['together_of_singles']:.1%} of as many times the mean single, "
        f"{document['mean_single_seconds']:.1f} s"
    )


def _show(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
