"""`lethe bench service`: real commands beside a real server, on the tiny workspace."""

from pathlib import Path

import pytest
from built_workspace import Built, copy_workspace
from tiny_workspace import OWNERS, lethe
from typer.testing import CliRunner

from cdm_core.sharding.forget_times import compare_forgets
from flows.bench import service
from flows.bench.service import run_bench_service
from flows.cli import app


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for theirs in (("workspace",), ("built", "pictures")):
        folder = tmp_path / theirs[-1]
        for name in theirs:
            (folder / name).mkdir(parents=True)
        ran = lethe(None, "bench", "service", folder)
        assert (ran.code, ran.err) == (1, f"lethe: {folder}: is neither an empty folder nor one that this command made\n")
        assert sorted(path.name for path in folder.iterdir()) == sorted(theirs)
    (tmp_path / "file").touch()
    assert lethe(None, "bench", "service", tmp_path / "file").code == 1


def test_people_see_the_runs_beside_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("requests", "training_seconds", "evaluation_seconds", "total_seconds", "stop_seconds", "peak_memory_mb")
    taken = [(1, 2.0, 1.0, 4.5), (1, 0.0, 0.5, 1.0), (10, 30.0, 5.0, 20.0)]
    one, emptied, together = (dict(zip(names, (*numbers, 0.25, 3900.0), strict=True)) for numbers in taken)
    monkeypatch.setattr(service, "run_bench_service", lambda directory, **options: compare_forgets([one, emptied], together))
    out = CliRunner().invoke(app, ["bench", "service", str(tmp_path)]).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["1", "0.2", "0.0", "0.5", "1.0", "–", "2.00", "3900"],
        ["1", "0.2", "2.0", "1.0", "4.5", "2.25", "1.50", "3900"],
        ["10", "0.2", "30.0", "5.0", "20.0", "–", "–", "3900"],
    ]
    assert "2.25 and 2.75 times their training" in out
    assert "10 in one file: 72.7% of as many times the mean single, 2.8 s" in out


@pytest.mark.slow
def test_singles_and_all_in_one_file_beside_a_server(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copy_workspace(built.ws, tmp_path / "built")
    assert lethe(copied, "keys", "add-issuer", service.ISSUER).code == 0
    before = (copied.root / "params.yaml").read_bytes(), sorted(path.name for path in copied.records.iterdir())
    monkeypatch.setattr(service, "owner_ids", lambda: [owner.owner_id for owner in OWNERS])
    document = run_bench_service(tmp_path, requests=4, every=3, seed=0)
    assert [run["requests"] for run in (*document["singles"], document["together"])] == [1, 1, 4]
    assert all(run["statuses"] == ["completed"] for run in (*document["singles"], document["together"]))
    assert all(0 < run["stop_seconds"] < run["total_seconds"] <= run["command_seconds"] for run in document["singles"])
    assert document["together_of_singles"] > 0
    # The copy that was kept is as it was, for the next time.
    assert before == ((copied.root / "params.yaml").read_bytes(), sorted(path.name for path in copied.records.iterdir()))
