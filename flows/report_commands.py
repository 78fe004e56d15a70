"""`lethe report`: what the product measures of itself, as a page for people and figures for programs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, JsonOption, WorkspaceOption, print_answer

app = typer.Typer(help="Reports: a page for people and figures beside it.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def report() -> None:
    """Reports: a page for people and figures beside it."""


@app.command("paper")
def report_paper(
    out: Annotated[Path, typer.Option(metavar="DIR|FILE", help="Folder of the page, or its .html file; the JSON goes beside it.")] = HERE,
    samples: Annotated[int, typer.Option(min=8, metavar="N", help="Pictures behind each distance, the same number for all.")] = 128,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes of every training stage; default: the workspace's.")] = None,
    classifier_steps: Annotated[int, typer.Option(min=1, help="Training steps of each split's classifier.")] = 400,
    overfit_steps: Annotated[int, typer.Option(min=1, help="Training steps of each shard that is overfitted on purpose.")] = 400,
    attributed: Annotated[int, typer.Option(min=1, help="Pictures attributed for figure 3, of each way to shard.")] = 32,
    draws: Annotated[int, typer.Option(min=2, help="Noise draws of each attribution.")] = 16,
    sections: Annotated[str | None, typer.Option(metavar="NAME,…", help="Only some: table_1, figure_2 and so on.")] = None,
    splits: Annotated[str | None, typer.Option(metavar="NAME,…", help="Only some: owner/8 (always), group/8, owner/4, owner/2.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Reproduce the paper's tables and figures on the workspace's data; goes on where an earlier run was cut short."""
    from flows.report import SECTIONS, print_report, run_report_paper
    from tasks.paper_report.study import SPLITS, Budget

    budget = Budget(
        samples=samples,
        epochs=epochs,
        classifier_steps=classifier_steps,
        overfit_steps=overfit_steps,
        attributed=attributed,
        draws=draws,
    )
    chosen = sections.split(",") if sections else list(SECTIONS)
    document = run_report_paper(workspace, out, budget, chosen, splits.split(",") if splits else SPLITS)
    if as_json:
        print_answer(dict(document), as_json)
    else:
        print_report(document)
