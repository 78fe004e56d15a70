"""What the commands of `lethe` share: their common options, and how an answer is printed."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[Path, typer.Option("--workspace", metavar="DIR", help="The workspace.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
HERE = Path(".")


def print_answer(document: dict[str, object], as_json: bool) -> None:
    """Print a command's document: for programs as one line of JSON, for people as they like it."""
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    from flows.console import print_document

    print_document(document)
