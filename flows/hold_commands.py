"""`lethe hold`: samples that may not be erased yet."""

from typing import Annotated

import typer

from flows.options import HERE, JsonOption, WorkspaceOption, print_answer

app = typer.Typer(help="Samples that may not be erased yet.", no_args_is_help=True, rich_markup_mode=None)


@app.command("add")
def add_hold(
    ground: Annotated[str, typer.Option(metavar="GROUND", help="legal_claim, legal_obligation, public_interest, research or other.")],
    until: Annotated[str, typer.Option(metavar="DATE", help="When it ends.")],
    sample: Annotated[list[str] | None, typer.Option("--sample", metavar="ID", help="A sample; repeatable.")] = None,
    owner: Annotated[list[str] | None, typer.Option("--owner", metavar="ID", help="All samples of an owner; repeatable.")] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept while the hold counts, shown nowhere.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Exempt samples from deletion requests until a day."""
    from flows.hold import run_hold_add

    print_answer(run_hold_add(workspace, samples=sample or [], owners=owner or [], ground=ground, until=until, note=note), as_json)


@app.command("release")
def release_hold(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD_ID")], workspace: WorkspaceOption = HERE, as_json: JsonOption = False
) -> None:
    """End a hold; requests that waited for it are put back in the queue."""
    from flows.hold import run_hold_release

    print_answer(run_hold_release(workspace, hold_id), as_json)


@app.command("list")
def list_holds(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the holds that count."""
    from flows.hold import run_hold_list

    print_answer(run_hold_list(workspace), as_json)
