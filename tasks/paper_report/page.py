"""The report's page: one HTML file with its plots inside, made from the figures alone. What stands in it as text is escaped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from tasks.paper_report import plots

Document = Mapping[str, Any]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Lethe: the paper's evidence on this workspace</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
svg { max-width: 100%; height: auto; }
.goal { background: #f3f3ee; padding: .5rem .8rem; border-left: 4px solid #888; }
.met { border-color: #2a7f3f; } .missed { border-color: #b3261e; }
.note { color: #555; }
</style>
</head>
<body>
<h1>The paper's evidence on this workspace</h1>
$body
</body>
</html>
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A goal of the issue and how it fared."""

    name: str
    verdict: str
    said: str


def goals_of(document: Document) -> list[Goal]:
    """Those of the sections that are there."""
    goals = []
    if table := document.get("table_1"):
        goal = table["goal"]
        said = f"{goal['best_method']} at {goal['split']}: ratio to the paragon {_interval(goal['ratio_to_paragon'], 3)}, limit {goal['limit']}"
        goals.append(Goal(name="distance within 10 % of the paragon at 8 splits", verdict=goal["verdict"], said=said))
    for split in document.get("figure_2", {}).get("splits", []):
        goal = split["goal"]
        mean = f"mean change when one is dropped {_percents(split['mean_of_one_dropped'])}"
        said = f"{mean}; {goal['shards_within']} of {goal['shards']} shards at or below {plots.as_percent(goal['limit'])}"
        goals.append(Goal(name=f"at most 1 % a dropped shard, {split['split']}", verdict=goal["verdict"], said=said))
    for key in ("table_2", "figure_4a", "figure_4b"):
        if goal := document.get(key, {}).get("goal"):
            goals.append(Goal(name=goal["name"], verdict=goal["verdict"], said=goal["said"]))
    return goals


def render_page(document: Document) -> str:
    """The page of a report, as far as it has got."""
    parts = [_introduction(document), *(render(document[key]) for key, render in _SECTIONS.items() if key in document)]
    return _PAGE.substitute(body="\n".join(parts))


def _introduction(document: Document) -> str:
    epochs = plots.labels(document["epochs"])
    splits = [
        [name, f"{split['steps']:,}", plots.labels(part["samples"] for part in split["parts"])] for name, split in document["splits"].items()
    ]
    seconds = [[name, f"{taken / 60:.1f}"] for name, taken in document.get("seconds", {}).items()]
    return "\n".join(
        [
            _text(
                f"{document['samples']:,} pictures of {document['owners']} owners. Adapters are trained with the workspace's own stages, "
                f"passes {epochs} over the stages' pictures; the paragon is one adapter on all pictures with exactly as many optimiser steps "
                f"as the eight of {_last_owner(document)} together. Made {document['made_at']}."
            ),
            "".join(_goal(goal) for goal in goals_of(document)),
            "<h2>What was trained</h2>",
            _table(["split", "steps", "pictures by part"], splits),
            "<h2>Minutes</h2>",
            _table(["stage", "minutes in this run"], seconds),
        ]
    )


def _last_owner(document: Document) -> str:
    return [name for name in document["splits"] if name.startswith("owner/")][0]


def _table_1(table: Document) -> str:
    rows = []
    for row in table["rows"]:
        ratio = row["ratio_to_paragon"]
        rows.append([row["split"], row["method"] or "", _interval(row["frechet"], 1), _interval(ratio, 3) if ratio else ""])
    best = [
        [split, goal["best_method"], _interval(goal["ratio_to_paragon"], 3), goal["verdict"]] for split, goal in table["best_by_split"].items()
    ]
    return "\n".join(
        [
            "<h2>Table 1: Fréchet distance of splits and methods</h2>",
            _text(
                f"EfficientNet-Lite0 features of {table['num_samples']} pictures a row to all real pictures; equal captions and seeds in every "
                f"row. As many real pictures are at {_interval(table['real_pictures'], 1)}: so much is the number of samples alone. Brackets: "
                f"95 % intervals of the jackknife over {table['num_blocks']} blocks; ratios are paired. Which method is best was chosen after "
                "the fact, which its interval doesn't know."
            ),
            plots.plot_distances(table),
            _table(["split", "method", "distance", "ratio to paragon"], rows),
            _table(["split", "best method", "ratio to paragon", f"within {table['goal']['limit']}"], best),
        ]
    )


def _figure_2(figure: Document) -> str:
    parts = [
        "<h2>Figure 2: dropping and adding shards</h2>",
        _text(
            f"Change of the distance to all real pictures, relative to that of all shards, with shard_per_image and {figure['num_samples']} "
            "pictures; dropped from the highest number down, added from the highest number down."
        ),
        plots.plot_drops(figure),
    ]
    for split in figure["splits"]:
        rows = [[str(row["shard"]), row["name"], str(row["samples"]), _percents(row["change"])] for row in split["one_dropped"]]
        parts += [f"<h3>{escape(split['split'])}: one shard dropped</h3>", _table(["shard", "holds", "pictures", "change"], rows)]
    return "\n".join(parts)


_SECTIONS: dict[str, Callable[[Document], str]] = {"table_1": _table_1, "figure_2": _figure_2}


def _goal(goal: Goal) -> str:
    kind = "met" if goal.verdict.startswith("met") else "missed"
    return f'<p class="goal {kind}"><b>{escape(goal.name)}: {escape(goal.verdict)}.</b> {escape(goal.said)}</p>'


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _interval(cell: Document, digits: int) -> str:
    value = cell["value"] if "value" in cell else cell["rate"]
    return f"{value:.{digits}f} [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"


def _percents(cell: Document) -> str:
    value = cell["value"] if "value" in cell else cell["rate"]
    return f"{100 * value:+.1f} % [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"
