"""`lethe bench forget` on the tiny workspace: every side is counted and really trained."""

from pathlib import Path
from typing import Any

import pytest
from built_workspace import Built
from tiny_workspace import OWNERS, lethe

from flows.bench.forget import print_forget_table

SIDES = ["monolith", "cdm", "sisa", "lethe"]


def test_all_sides_in_one_run(built: Built, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    document = lethe(built.ws, "bench", "forget", "--requests", "8", "--batch", "1,4", "--plot", plot).document
    assert set(document["by_batch"]) == {"1", "4"}
    assert document["sides"] == document["by_batch"]["1"]
    for sides in document["by_batch"].values():
        assert [side["name"] for side in sides] == SIDES
        assert set(sides[0]) >= {"name", "steps", "steps_share", "wall_seconds", "wall_share"}
        assert all(side["wall_seconds"] > 0 for side in sides if side["steps"] and side["name"] != "lethe")
        assert sides[0]["steps_share"] == sides[0]["wall_share"] == 1
        assert sides[-1]["steps"] <= sides[1]["steps"] <= sides[0]["steps"]
    assert plot.read_text().lstrip().startswith("<?xml")


def test_counting_alone_trains_nothing(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.bench.forget.LENGTHS", (4, 9))
    document = lethe(built.ws, "bench", "forget", "--requests", "9", "--batch", "1", "--timed", "0").document
    assert [side["wall_seconds"] for side in document["sides"]] == [None] * 4
    assert list(document["by_requests"]) == ["4", "9"]
    assert [side["steps"] for side in document["by_requests"]["9"]] == [side["steps"] for side in document["sides"]]
    first, whole = (sides[0]["steps"] for sides in document["by_requests"].values())
    assert 0 < first < whole


def test_steps_are_counted_under_other_secrets_too(built: Built) -> None:
    def redraws(num: int) -> dict[str, Any]:
        options = ("--requests", "9", "--batch", "1", "--timed", "0", "--redraws", num)
        found: dict[str, Any] = lethe(built.ws, "bench", "forget", *options).document["redraws"]
        return found

    assert redraws(0) == {"count": 0, "by_requests": {}}
    one, three = redraws(1), redraws(3)
    assert (one["count"], three["count"], list(three["by_requests"])) == (1, 3, ["9"])
    alone, spread = one["by_requests"]["9"], three["by_requests"]["9"]
    assert alone["least"] == alone["median"] == alone["most"]
    assert 0 < spread["least"] <= min(spread["median"], alone["median"]) <= spread["most"] < 1
    assert spread["least"] < spread["most"]


def test_where_every_owner_leaves_at_once_there_is_no_share(built: Built, tmp_path: Path) -> None:
    options = ("--requests", "9", "--batch", "1,9", "--timed", "1", "--redraws", "1", "--plot", tmp_path / "plot.svg")
    ran = lethe(built.ws, "bench", "forget", *options)
    assert [(side["steps"], side["steps_share"], side["wall_share"]) for side in ran.document["by_batch"]["9"]] == [(0, None, None)] * 4
    assert ran.document["sides"][0]["steps_share"] == ran.document["sides"][0]["wall_share"] == 1
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1


def test_what_is_timed_is_what_is_counted(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a second here, so that the seconds of all groups are their steps."""
    monkeypatch.setattr("flows.bench.forget.time_retrainings", lambda _pool, _ws, rules, _rows, retrainings: rules.count_steps(retrainings))
    document = lethe(built.ws, "bench", "forget", "--requests", "9", "--batch", "1,4", "--timed", "9", "--redraws", "0").document
    for sides in document["by_batch"].values():
        assert [side["wall_seconds"] for side in sides] == [side["steps"] for side in sides]


def test_a_table_shows_a_dash_for_a_share_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    side = {"name": "monolith", "steps": 0, "steps_share": None, "wall_seconds": None, "wall_share": None}
    spread = {"count": 1, "by_requests": {"9": {"median": None, "least": None, "most": None}}}
    print_forget_table({"requests": 9, "owners": 9, "by_batch": {"9": [side]}, "by_requests": {"9": [side] * 4}, "redraws": spread})
    assert capsys.readouterr().out.count("–") == 3 + 4 + 3


def test_more_requests_than_owners_are_refused(built: Built) -> None:
    ran = lethe(built.ws, "bench", "forget", "--requests", "64", "--batch", "1")
    assert (ran.code, ran.err) == (1, f"lethe: requests: 64 requests need as many owners; there are {len(OWNERS)}\n")
    ran = lethe(built.ws, "bench", "forget", "--requests", "4", "--batch", "8")
    assert (ran.code, ran.err) == (1, "lethe: batch: 8 is not between 1 and the 4 requests\n")
