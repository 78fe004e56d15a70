"""`lethe identities`: by what senders know an owner."""

from typing import Annotated

import typer

from flows.options import HERE, JsonOption, WorkspaceOption, print_answer

app = typer.Typer(help="By what senders know an owner.", no_args_is_help=True, rich_markup_mode=None)


@app.command("add")
def add_identities(
    owner: Annotated[str, typer.Argument(metavar="OWNER_ID", help="As `lethe learn --owner` was told.")],
    email: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="An e-mail address; may be repeated.")] = None,
    phone: Annotated[list[str] | None, typer.Option(metavar="NUMBER", help="A phone number; may be repeated.")] = None,
    customer_id: Annotated[list[str] | None, typer.Option("--customer-id", metavar="ID", help="A controller's; may be repeated.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Say by what senders know an owner; only keyed hashes are stored."""
    from flows.answers import run_add_identities

    given = {"email": email, "phone": phone, "controller_customer_id": customer_id}
    print_answer(run_add_identities(workspace, owner, [(kind, value) for kind, values in given.items() for value in values or []]), as_json)
