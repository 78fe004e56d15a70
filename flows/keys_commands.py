"""`lethe keys`: who may sign requests, plans and records."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, JsonOption, WorkspaceOption, print_answer

app = typer.Typer(help="Who may sign requests.", no_args_is_help=True, rich_markup_mode=None)


@app.command("add-issuer")
def add_issuer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As requests name it, for example owner:johanna.")],
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="Public key or certificate in PEM: Ed25519, RSA, EC P-256; else a pair is made."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Register who may sign requests."""
    from flows.commands import run_add_issuer

    print_answer(run_add_issuer(workspace, name, public_key), as_json)


@app.command("export")
def export_keys(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The key list to write.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write the list of public keys that check this workspace's records and receipts."""
    from flows.receipts import run_export_keys

    print_answer(run_export_keys(workspace, out), as_json)


@app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    public_key: Annotated[
        Path, typer.Option("--public-key", metavar="FILE", help="Public key in PEM; Ed25519, or for issuers as in add-issuer.")
    ],
    role: Annotated[list[str], typer.Option("--role", metavar="ROLE", help="issuer, or a role of params.yaml's approvals; repeatable.")],
    valid_from: Annotated[str | None, typer.Option(metavar="TIME", help="Default: now, or as it was.")] = None,
    valid_until: Annotated[str | None, typer.Option(metavar="TIME", help="Default: without end.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Register a key with its roles and validity."""
    from flows.policy import run_keys_add

    print_answer(run_keys_add(workspace, name, public_key, role, valid_from, valid_until), as_json)


@app.command("revoke")
def revoke_key(
    keyid: Annotated[str, typer.Argument(metavar="KEYID", help="The key, or its first 8 digits or more.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the registry.")],
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Since when it doesn't count; default: now.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Let a key count no longer; what the ledger recorded before stays good."""
    from flows.policy import run_keys_revoke

    print_answer(run_keys_revoke(workspace, keyid, reason, since), as_json)


@app.command("list")
def list_keys(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the key registry."""
    from flows.policy import run_keys_list

    print_answer(run_keys_list(workspace), as_json)
