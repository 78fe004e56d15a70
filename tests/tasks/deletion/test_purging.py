"""What a purge erased is counted once, however often it's cut short."""

from datetime import UTC, datetime
from pathlib import Path

from tasks.deletion.purging import Tally
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_went_in_an_attempt_that_was_cut_short_is_counted_with_the_rest(tmp_path: Path) -> None:
    case = Case(Workspace(tmp_path), "r-1")
    first = Tally(case)
    first.add({"dvc_cache": 4})
    first.add({"dvc_remote": 3})
    second = Tally(case)
    second.add({"dvc_cache": 0})
    second.add({"dvc_remote": 1})
    second.add({"grids": 0, "reports": 2})
    assert second.sum() == {"dvc_cache": 4, "dvc_remote": 4, "grids": 0, "reports": 2}
    assert len(Ledger(case.ws).events(request_id="r-1")) == 4


def test_what_went_in_an_earlier_round_or_for_another_request_is_not_counted(tmp_path: Path) -> None:
    case = Case(Workspace(tmp_path), "r-1")
    Tally(case).add({"grids": 4})
    Tally(Case(case.ws, "r-2")).add({"grids": 7})
    Ledger(case.ws).append("requeued", "r-1", {}, NOW)
    tally = Tally(case)
    tally.add({"grids": 1})
    assert tally.sum() == {"grids": 1}
