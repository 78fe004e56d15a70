"""`lethe report paper` on a workspace of nine owners: all sections, reused by a rerun, and refused where nothing like that exists."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_workspace import OWNERS, lethe, make_workspace, owners_of, signed_request

from tasks.workspace import Workspace

SMALL = ("--samples", "8", "--classifier-steps", "2", "--overfit-steps", "2", "--attributed", "2", "--draws", "2")


class _Page(HTMLParser):
    """Counts tags and gathers text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text())
    return page


def files_of(ws: Workspace) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in ws.report.rglob("*") if path.is_file()}


@pytest.mark.timeout(1800)  # all sections of the report
@pytest.mark.slow
def test_all_sections_are_made_and_a_rerun_reuses_everything(copied: Workspace, tmp_path: Path) -> None:
    document = lethe(copied, "report", "paper", *SMALL, "--out", tmp_path).document
    page, figures = Path(document["page"]), Path(document["figures"])
    assert (page.name, figures.name) == ("paper-report.html", "paper-report.json")
    _check_table_1(document["table_1"])
    _check_figure_2(document["figure_2"])
    assert {row["model"] for row in document["table_2"]["rows"]} > {"bare backbone", "paragon", "owner/8 · knn"}
    for split in document["figure_3"]["splits"]:
        assert split["validation"]["source_accuracy"]["trials"] == 2
        assert len(split["examples"][0]["weights"]) == len(split["times"])
        assert len(split["mean_largest_weight_on_the_path"]) == len(split["path_times"])
        assert all(0 <= weight <= 1 for weight in split["mean_weight_of_the_maker_on_the_path"])
    assert document["figure_4a"]["held_out"] in {part["name"] for part in document["splits"]["group/8"]["parts"]}
    assert {row["model"] for row in document["figure_4b"]["rows"]} > {"single overfitted shards", "composed, average"}
    steps = {name: split["steps"] for name, split in document["splits"].items()}
    assert steps["paragon"] == steps["owner/8"]
    shown = read_page(page)
    assert shown.tags.count("svg") >= 7
    assert all(link.startswith("#") for link in shown.links), "nothing is fetched from anywhere"
    for heading in ("Table 1", "Figure 2", "Table 2", "Figure 3", "Figure 4A", "Figure 4B"):
        assert heading in shown.text
    assert shown.text.count("it favours shard_per_image over the other methods") == 2
    before = files_of(copied)
    again = lethe(copied, "report", "paper", *SMALL, "--out", tmp_path).document
    assert files_of(copied) == before
    volatile = ("made_at", "seconds", "total_seconds")
    assert {key: value for key, value in again.items() if key not in volatile} == {
        key: value for key, value in document.items() if key not in volatile
    }
    _check_purge(copied, tmp_path)


def _check_table_1(table: dict[str, Any]) -> None:
    assert table["num_samples"] == 8
    assert {row["split"] for row in table["rows"]} == {"paragon", "bare backbone", "owner/8", "owner/4", "owner/2", "group/8"}
    methods = {row["method"] for row in table["rows"] if row["split"] == "owner/8"}
    assert methods >= {"shard_per_image", "knn", "classifier", "average", "random", "bayes", "top_k:knn"}
    for row in table["rows"]:
        assert row["frechet"]["low"] <= row["frechet"]["value"] <= row["frechet"]["high"]
    best = min((row for row in table["rows"] if row["split"] == "owner/8"), key=lambda row: row["frechet"]["value"])
    assert table["goal"]["best_method"] == best["method"]
    assert table["goal"]["verdict"].startswith("met" if best["ratio_to_paragon"]["value"] <= 1.1 else "missed")


def _check_figure_2(figure: dict[str, Any]) -> None:
    for split in figure["splits"]:
        num = len(split["one_dropped"])
        assert [row["dropped"] for row in split["dropping"]] == list(range(1, num))
        assert [row["shards"] for row in split["adding"]] == list(range(1, num + 1))
        # Dropping the last shard is the first step of dropping one after the other.
        assert split["one_dropped"][-1]["change"] == split["dropping"][0]["change"]


def _check_purge(ws: Workspace, tmp_path: Path) -> None:
    request = signed_request(ws, tmp_path / "requests", owner_ids=[owners_of(0, 1)[0].owner_id])
    purged = lethe(ws, "submit", request).document["purged"]
    assert purged["reports"] > 0
    assert not ws.report.exists()


def test_one_owner_of_one_kind_of_pictures_has_a_report_without_what_needs_more(prefect_server: None, tmp_path: Path) -> None:
    one = next(owner for owner in OWNERS if len(owner.pictures) == 5)
    ws = make_workspace(tmp_path / "ws", without=[owner for owner in OWNERS if owner is not one])
    document = lethe(ws, "report", "paper", *SMALL, "--out", tmp_path, "--sections", "figure_4a,figure_4b").document
    assert document["figure_4a"] == {"left_out": "pictures of one group only: there is nothing out of domain"}
    assert document["figure_4b"]["left_out"].startswith("no picture is held out")
    assert "there is nothing out of domain" in read_page(Path(document["page"])).text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sections", "table_9"), "sections: table_9 is not one of table_1, figure_2, table_2, figure_3, figure_4a, figure_4b"),
        (("--splits", "owner/3"), "splits: owner/3 is not one of owner/8, group/8, owner/4, owner/2"),
    ],
)
def test_what_is_unknown_is_told(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ran = lethe(None, "report", "paper", *options, "--out", tmp_path)
    assert (ran.code, ran.err) == (1, f"lethe: {message}\n")
