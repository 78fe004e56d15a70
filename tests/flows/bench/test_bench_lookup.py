import json
from pathlib import Path

import pytest

from flows.cli import main


def test_the_benchmark_makes_manifests_and_answers_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lethe", "bench", "lookup", "--rows", "20_000", "--dir", str(tmp_path / "made"), "--json"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"] == 20_000
    assert answer["sample_ids"] == 1000
    assert 0 < answer["owner_samples"] < 200
    assert answer["samples_seconds"] > 0
    assert answer["owner_seconds"] > 0
    assert 0 < answer["peak_memory_bytes"] < 10**9
    assert answer["make_seconds"] > 0
    assert len(list((tmp_path / "made" / "data_manifests").glob("*.parquet"))) == 8


@pytest.mark.benchmarks
def test_a_look_up_is_as_quick_as_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lethe", "bench", "lookup", "--rows", "20_000", "--dir", str(tmp_path / "made"), "--json"])
    with pytest.raises(SystemExit):
        main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["samples_seconds"] < 2
    assert answer["owner_seconds"] < 0.5


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    monkeypatch.setattr("sys.argv", ["lethe", "bench", "lookup", "--rows", "20", "--dir", str(tmp_path)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    assert "is not an empty folder" in capsys.readouterr().err
