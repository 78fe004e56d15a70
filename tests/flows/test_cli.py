"""The command line's surface: commands, options, exit codes, and that it starts fast. What commands do is tested beside their flows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from tasks.keys import create_keys
from tasks.workspace import Workspace

COMMANDS = {
    "init": {"directory", "--shards", "--stages"},
    "build": set(),
    "keys add-issuer": {"name", "--public-key"},
    "sign": {"file", "--issuer"},
    "plan-shards": {"--batch"},
    "plan": {"file", "--include-duplicates", "--out"},
    "submit": {"file", "--include-duplicates", "--format", "--plan"},
    "identities add": {"owner", "--email", "--phone", "--customer-id"},
    "learn": {"directory", "--owner", "--tier"},
    "review": {"request_id", "--accept", "--reject", "--reason"},
    "status": {"request_id", "--as", "--overdue", "--due-in"},
    "replay": {"record", "--keys", "--sample", "--count"},
    "checkpoints": {"--collect"},
    "receipt": {"request_id", "--out", "--key"},
    "unlink": {"request_id"},
    "verify": {"path", "--trust"},
    "keys export": {"--out"},
    "attribute": {"image", "--generate", "--seed", "--prompt", "--draws", "--plot", "--validate"},
    "generate": {"--sampler", "--prior", "--bound", "--num", "--seed", "--prompt", "--shards", "--method", "--out", "--entitlements"},
    "grant": {"--subject", "--shards", "--expires", "--out"},
    "extend": {"request_id", "--reason"},
    "approve": {"plan_file", "--key"},
    "keys add": {"name", "--public-key", "--role", "--valid-from", "--valid-until"},
    "keys revoke": {"keyid", "--reason", "--since"},
    "keys list": set(),
    "hold add": {"--sample", "--owner", "--ground", "--until", "--note"},
    "hold release": {"hold_id"},
    "hold list": set(),
}
HEAVY = {"torch", "diffusers", "peft", "open_clip", "transformers", "pandas", "prefect", "mlflow", "dvc", "matplotlib"}


def _parameters(path: str) -> set[str]:
    """Options as they are typed, arguments by name."""
    command = typer.main.get_command(app)
    for name in path.split():
        command = command.commands[name]
    return {name for parameter in command.params for name in parameter.opts}


def _run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """As the installed script runs it; the last line on stderr tells which heavy libraries were imported."""
    program = f"""
import sys
from flows.cli import main
try:
    main()
finally:
    print(sorted(set(sys.modules) & {HEAVY}), file=sys.stderr)
"""
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("path", "parameters"), COMMANDS.items(), ids=COMMANDS)
def test_each_command_has_its_parameters_and_the_common_options(path: str, parameters: set[str]) -> None:
    assert _parameters(path) == parameters | {"--workspace", "--json"}


def test_the_ui_has_a_workspace() -> None:
    assert _parameters("ui") >= {"--workspace", "--port"}


@pytest.mark.parametrize("path", ["", "pretrain", *COMMANDS, "ui", "serve", "demo"])
def test_help_is_told(path: str) -> None:
    result = CliRunner().invoke(app, [*path.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "build --nonsense",
        "init",
        "sign request.yaml",
        "learn pictures",
        "generate --num 0 --out grid.png",
        "generate --num one --out grid.png",
        "generate --num 1 --seed -1 --out grid.png",
        "review r-1 --reason because",
        "review r-1 --reason because --accept --reject",
        "ui --port 0",
        "pretrain backbone --corpus . --out . --minutes 0",
    ],
)
def test_wrong_usage_exits_with_2(arguments: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 2
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments", ["--help", "verify --help", "verify record.json", "verify record.json --json", "status", "sign x --issuer owner:a"]
)
def test_what_must_start_fast_imports_nothing_heavy(arguments: str, tmp_path: Path) -> None:
    result = _run(*arguments.split(), directory=tmp_path)
    assert result.stderr.splitlines()[-1] == "[]"
    assert result.returncode == (0 if "--help" in arguments else 1)


def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    result = _run("verify", "nobody.json", directory=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    message, imported = result.stderr.splitlines()
    assert message == f"lethe: {tmp_path}/nobody.json: cannot be read: No such file or directory"
    assert imported == "[]"


@pytest.mark.parametrize("command", ["hold add --owner", "identities add", "extend r-1 --reason", "status"])
def test_an_argument_that_is_not_utf_8_is_refused_in_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((Path(__file__).parents[2] / "params.yaml").read_bytes())
    create_keys(Workspace(tmp_path))
    result = _run(*command.split(), os.fsdecode(b"johann\xff"), directory=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == r"lethe: argument 'johann\udcff': is not UTF-8 at character 6"


def test_no_command_leaves_anything_in_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    for arguments in ("status", "keys add-issuer owner:a", "submit request.yaml", "build"):
        result = _run(*arguments.split(), "--json", directory=tmp_path)
        assert result.returncode == 1, arguments
        assert "lethe init" in result.stderr
        assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    """On the quickest command that succeeds without a workspace's data."""
    (tmp_path / "params.yaml").write_bytes((Path(__file__).parents[2] / "params.yaml").read_bytes())
    create_keys(Workspace(tmp_path))
    result = _run("keys", "add-issuer", "owner:a", "--json", directory=tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) >= {"issuer", "keyid"}
