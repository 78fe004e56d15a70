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

_TIE = """A picture's seed draws its caption's shard as it draws the expert of shard_per_image. In a split by owner into as many parts as
the workspace has shards, each picture of shard_per_image is therefore made by the expert that was trained on its caption; at other numbers
of parts some are, more than chance alone would make. A user's prompt has no such tie: it favours shard_per_image over the other methods."""


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
        ratio = _interval(goal["ratio_to_paragon"], 3)
        said = f"{goal['best_method']} at {goal['split']}: ratio to the paragon {ratio}, limit {goal['limit']}"
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
        [name, f"{split['steps']:,}", plots.labels([part["samples"] for part in split["parts"]])]
        for name, split in document["splits"].items()
    ]
    seconds = [[name, f"{taken / 60:.1f}"] for name, taken in document.get("seconds", {}).items()]
    return "\n".join(
        [
            _text(
                f"""{document["samples"]:,} pictures of {document["owners"]} owners. Adapters are trained with the workspace's own
                stages, passes {epochs} over the stages' pictures; the paragon is one adapter on all pictures with exactly as many
                optimiser steps as the eight of {_last_owner(document)} together. Made {document["made_at"]}."""
            ),
            "".join(_goal(goal) for goal in goals_of(document)),
            "<h2>What was trained</h2>",
            _table(["split", "steps", "pictures by part"], splits),
            "<h2>Minutes</h2>",
            _table(["stage", "minutes in this run"], seconds),
        ]
    )


def _last_owner(document: Document) -> str:
    return next(str(name) for name in document["splits"] if name.startswith("owner/"))


def _table_1(table: Document) -> str:
    rows = []
    for row in table["rows"]:
        ratio = row["ratio_to_paragon"]
        rows.append([row["split"], row["method"] or "", _interval(row["frechet"], 1), _interval(ratio, 3) if ratio else ""])
    best = [
        [split, goal["best_method"], _interval(goal["ratio_to_paragon"], 3), goal["verdict"]]
        for split, goal in table["best_by_split"].items()
    ]
    return "\n".join(
        [
            "<h2>Table 1: Fréchet distance of splits and methods</h2>",
            _text(
                f"""EfficientNet-Lite0 features of {table["num_samples"]} pictures a row to all real pictures; equal captions and
                seeds in every row. As many real pictures are at {_interval(table["real_pictures"], 1)}: so much is the number of
                samples alone. Brackets: 95 % intervals of the jackknife over {table["num_blocks"]} blocks; ratios are paired.
                Which method is best was chosen after the fact, which its interval doesn't know. {_TIE}"""
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
            f"""Change of the distance to all real pictures, relative to that of all shards, with shard_per_image and
            {figure["num_samples"]} pictures; dropped from the highest number down, added from the highest number down."""
        ),
        plots.plot_drops(figure),
    ]
    for split in figure["splits"]:
        rows = [[str(row["shard"]), row["name"], str(row["samples"]), _percents(row["change"])] for row in split["one_dropped"]]
        parts += [f"<h3>{escape(split['split'])}: one shard dropped</h3>", _table(["shard", "holds", "pictures", "change"], rows)]
    return "\n".join(parts)


def _table_2(table: Document) -> str:
    rows = [
        [row["model"], _interval(row["clip_score"], 3), _percent(row["class_retrieved"]), _percent(row["caption_retrieved"])]
        for row in table["rows"]
    ]
    gains = [[label, gain["model"], _interval(gain["clip_score_gain"], 3)] for label, gain in table["against"].items()]
    return "\n".join(
        [
            "<h2>Table 2: does a picture show what was asked for?</h2>",
            _text(
                f"""{table["num_samples"]} pictures a row, equal captions and seeds. {_TIE} CLIP is the one
                that conditions the backbone, and both were trained on the same public drawings, whose style it may favour;
                EfficientNet-Lite0 was never shown an emoji: it looks up the nearest real picture, which is right if it is of the
                caption's class ({table["classes"]} classes; the largest holds
                {plots.as_percent(table["share_of_the_largest_class"])} of all pictures), and whether the caption's own picture is
                among the nearest {table["nearest"]}."""
            ),
            plots.plot_alignment(table),
            _table(["model", "CLIP score", "right class", "own picture near"], rows),
            _text(f"Gain of the best composition, {table['best_composed']}, paired over captions and seeds:"),
            _table(["against", "model", "CLIP score gain"], gains),
        ]
    )


def _figure_3(figure: Document) -> str:
    parts = [
        "<h2>Figure 3: which shards a picture came from</h2>",
        _text(
            f"""Plots: the weights of bayes over the steps of {figure["num_pictures"]} pictures, from the priors on. Table: as many
            pictures of shard_per_image, each made by one shard; credit by common noise with {figure["draws"]} draws, and by eq. 6 along
            the path from picture to noise with 2 probes and as many steps as sampling has, whose weights (dashed) are found by common
            noise at each point, checked against leaving each shard out and making the picture anew from its seed, which is exact. Only
            its maker's absence changes such a picture, so that most effects are 0 and the rank correlation can't reach 1."""
        ),
        plots.plot_weights_over_time(figure),
    ]
    rows = []
    for split in figure["splits"]:
        for label, key in (("common noise", "validation"), ("path (eq. 6)", "validation_of_the_path")):
            found = split[key]
            accuracy = _percent(found["source_accuracy"]) if found["source_accuracy"] else "–"
            spearman = f"{found['spearman']:.3f}" if found["spearman"] is not None else "–"
            rows.append([split["split"], label, accuracy, plots.as_percent(split["chance"]), spearman])
        parts.append(plots.plot_credit_over_time(split))
    parts.append(_table(["split", "estimator", "highest credit to the maker", "chance", "Spearman with leave-one-out"], rows))
    return "\n".join(parts)


def _figure_4a(figure: Document) -> str:
    if "left_out" in figure:
        return "<h2>Figure 4A</h2>" + _text(figure["left_out"])
    rows = []
    for row in figure["rows"]:
        cells = [row["model"]]
        for kind in ("outside", "inside"):
            cells += [_percent(row[kind]["class_retrieved"]), _interval(row[kind]["clip_score"], 3)]
        rows.append(cells)
    return "\n".join(
        [
            "<h2>Figure 4A: what only a new expert covers</h2>",
            _text(
                f"""The group {figure["held_out"]} ({figure["samples"]} pictures) lies in one shard; its expert is left out, then
                added. {figure["num_samples"]} prompts of that group (outside the other shards' data) and as many of the others
                (inside). The public backbone has seen drawings of such things by other vendors, so outside isn't unknown to it."""
            ),
            plots.plot_coverage(figure),
            _table(["model", "right group, outside", "CLIP score, outside", "right group, inside", "CLIP score, inside"], rows),
        ]
    )


def _figure_4b(figure: Document) -> str:
    if "left_out" in figure:
        return "<h2>Figure 4B</h2>" + _text(figure["left_out"])
    rows = [[row["model"], _percent(row["near_copies"]), f"{row['median_ratio']:.3f}"] for row in figure["rows"]]
    return "\n".join(
        [
            "<h2>Figure 4B: memorisation</h2>",
            _text(
                f"""Two shards trained on purpose on {figure["training_pictures"]} pictures together, {figure["steps"]} steps, and
                asked for the captions that they were trained on. A near copy: the distance to the nearest training picture over
                the mean distance to the 50 nearest lies below {figure["threshold"]:.3f}, the 5 % quantile of held-out pictures,
                of which {_percent(figure["held_out"])} lie below it. Wilson intervals."""
            ),
            plots.plot_memorisation(figure),
            _table(["model", "near copies", "median ratio"], rows),
        ]
    )


_SECTIONS: dict[str, Callable[[Document], str]] = {
    "table_1": _table_1,
    "figure_2": _figure_2,
    "table_2": _table_2,
    "figure_3": _figure_3,
    "figure_4a": _figure_4a,
    "figure_4b": _figure_4b,
}


def _goal(goal: Goal) -> str:
    kind = "met" if goal.verdict.startswith("met") else "missed"
    return f'<p class="goal {kind}"><b>{escape(goal.name)}: {escape(goal.verdict)}.</b> {escape(goal.said)}</p>'


def _text(text: str) -> str:
    return f"<p>{escape(' '.join(text.split()))}</p>"


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


def _percent(cell: Document) -> str:
    return f"{100 * cell['rate']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
