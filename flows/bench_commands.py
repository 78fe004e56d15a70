"""`lethe bench`: measurements, each of the product's own path."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, JsonOption, WorkspaceOption, print_answer

app = typer.Typer(help="Measurements, each of the product's own path.", no_args_is_help=True, rich_markup_mode=None)


@app.command("compose")
def bench_compose(
    pictures: Annotated[int, typer.Option(min=1, help="Pictures sampled together.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps of each sampling.")] = 4,
    repetitions: Annotated[int, typer.Option(min=1, help="Of all sides, in alternation.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Measure what composing 1 to 16 adapters costs against one model."""
    from flows.bench.compose import run_bench_compose

    print_answer(run_bench_compose(pictures=pictures, steps=steps, repetitions=repetitions), as_json)


@app.command("training")
def bench_training(
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each side and repetition.")] = 8,
    repetitions: Annotated[int, typer.Option(min=1, help="Of all sides, in alternation.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Measure LoRA training against a plain forward and backward, and against peft and diffusers as their examples train."""
    from flows.bench.training import run_bench_training

    print_answer(run_bench_training(steps=steps, repetitions=repetitions), as_json)


@app.command("lookup")
def bench_lookup(
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Rows of all manifests together.")] = 10_000_000,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to make the manifests and leave them; else a temporary folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the manifests' content.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make manifests of many rows and measure how long a look-up in them takes."""
    from flows.bench.lookup import run_bench_lookup

    print_answer(run_bench_lookup(rows, directory, seed), as_json)


@app.command("forget")
def bench_forget(
    requests: Annotated[int, typer.Option(min=1, help="Withdrawals in the trace, one owner each.")] = 64,
    batch: Annotated[str, typer.Option(metavar="K,K,…", help="How many are carried out together.")] = "1,8,64",
    timed: Annotated[int, typer.Option(min=0, help="Groups of each K that are trained and timed; 0 counts steps alone.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the trace.")] = 0,
    redraws: Annotated[int, typer.Option(min=0, help="Other secrets under which steps are counted, too.")] = 10,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to draw the shares, as SVG.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Compare what a trace of withdrawals costs a monolith, CDM, SISA and Lethe: exact steps, and seconds of training."""
    from flows.bench.forget import print_forget_table, run_bench_forget

    try:
        batches = [int(part) for part in batch.split(",")]
    except ValueError as error:
        raise typer.BadParameter("--batch takes numbers with commas") from error
    document = run_bench_forget(workspace, requests=requests, batches=batches, timed=timed, seed=seed, redraws=redraws, plot=plot)
    if as_json:
        print_answer(document, as_json)
    else:
        print_forget_table(document)


@app.command("service")
def bench_service(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the workspaces; empty, or made by this command.")],
    requests: Annotated[int, typer.Option(min=2, help="Withdrawals in the trace, one owner each.")] = 64,
    every: Annotated[int, typer.Option(min=1, help="Which of them also run alone: every n-th.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the trace.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure whole forgets beside a running server: of single owners, and of all in one file."""
    from flows.bench.service import print_service_table, run_bench_service

    document = run_bench_service(directory, requests=requests, every=every, seed=seed)
    if as_json:
        print_answer(document, as_json)
    else:
        print_service_table(document)
