"""What the documentation says of the code as a whole, checked by reading the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("cdm_core", "tasks", "flows")
LONGEST_FILE = 500

OUTSIDE_WORLD = {
    "os",
    "pickle",
    "random",
    "requests",
    "secrets",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "time",
    "urllib.request",
    "uuid",
}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
WRITES = {"mkdir", "rmdir", "touch", "unlink", "write_bytes", "write_text"}
DRAWS = {"bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm"}


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def _named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=path.relative_to(REPOSITORY).as_posix()) for path in paths]


def _parse(path: Path) -> ast.Module:
    """The syntax tree; each node knows its parent."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    return tree


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_import_name(alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield _import_name(node.module)


def _import_name(module: str) -> str:
    """The package; of urllib the module, since its parser reads no network."""
    return module if module.startswith("urllib.") else module.partition(".")[0]


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the last part of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).rpartition(".")[2]


def _has(call: ast.Call, keyword: str) -> bool:
    return keyword in {argument.arg for argument in call.keywords}


def _is_under_fork_rng(node: ast.AST) -> bool:
    while node := getattr(node, "parent", None):
        if isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0].context_expr):
            return True
    return False


def _impurities(tree: ast.Module) -> list[str]:
    """What a core function must not do: everything that it uses is handed to it."""
    found = [f"import {name}" for name in _imported(tree) if name in OUTSIDE_WORLD]
    for call, name in _calls(tree):
        is_draw = name in DRAWS and not _has(call, "generator")
        is_global_seed = name == "manual_seed" and ast.unparse(call.func).startswith("torch.") and not _is_under_fork_rng(call)
        is_global_seed = is_global_seed and "Generator" not in ast.unparse(call.func)
        if is_draw or is_global_seed or name in CLOCKS or name in WRITES or name == "open":
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("path", _named(_sources("cdm_core")))
def test_the_core_reads_no_clock_environment_or_global_randomness_and_writes_nothing(path: Path) -> None:
    assert _impurities(_parse(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "from time import monotonic",
        "datetime.now(UTC)",
        "torch.randn(3)",
        "torch.randn_like(x)",
        "torch.manual_seed(0)",
        "path.write_bytes(b'')",
        "open('x')",
    ],
)
def test_the_check_of_the_core_finds(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    assert len(_impurities(_parse(tmp_path / "module.py"))) == 1


def test_the_check_of_the_core_lets_generators_pass(tmp_path: Path) -> None:
    code = "torch.randn(3, generator=torch.Generator().manual_seed(0))\nwith torch.random.fork_rng():\n    torch.manual_seed(0)\n"
    (tmp_path / "module.py").write_text(code)
    assert _impurities(_parse(tmp_path / "module.py")) == []


@pytest.mark.parametrize("path", _named(_sources(*PACKAGES)))
def test_nothing_unpickles(path: Path) -> None:
    tree = _parse(path)
    assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(_imported(tree))
    unsafe = [
        ast.unparse(call)
        for call, _ in _calls(tree)
        if ast.unparse(call.func) == "torch.load" and "weights_only=True" not in ast.unparse(call)
    ]
    assert unsafe == []
    assert not [ast.unparse(call) for call, _ in _calls(tree) if ast.unparse(call.func) in {"yaml.load", "eval", "exec"}]


@pytest.mark.parametrize("path", _named(_sources(*PACKAGES)))
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if path.parent.name == "flows":
        return
    assert not [ast.unparse(call) for call, _ in _calls(_parse(path)) if ast.unparse(call.func) in {"print", "exit", "sys.exit", "quit"}]


def test_files_are_short() -> None:
    lengths = {path.relative_to(REPOSITORY).as_posix(): len(path.read_text().splitlines()) for path in _sources(*PACKAGES, "tests")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("command", ["pip install -e '.[test]'", ".ci/check", "pytest", "pytest -m slow"])
def test_ci_runs_what_the_readme_says(command: str) -> None:
    assert command in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    readme = (REPOSITORY / "README.md").read_text().splitlines()
    assert command in [part.strip() for line in readme for part in line.partition("#")[0].split("&&")]
