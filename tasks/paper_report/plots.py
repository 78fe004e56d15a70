"""The report's plots, as SVG without a date: equal figures, equal bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Document = Mapping[str, Any]


def plot_distances(table: Document) -> str:
    """Table 1 as bars of ratios to the paragon, a panel a split."""
    rows = [row for row in table["rows"] if row["method"]]
    splits = list(dict.fromkeys(row["split"] for row in rows))
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for number, split in enumerate(splits):
        axes = figure.add_subplot(1, len(splits), number + 1)
        own = [row for row in rows if row["split"] == split]
        values = [row["ratio_to_paragon"]["value"] for row in own]
        errors = [row["ratio_to_paragon"]["high"] - row["ratio_to_paragon"]["value"] for row in own]
        axes.barh([row["method"] for row in own], values, xerr=errors, color="#5b7fa6", ecolor="#333333")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.axvline(table["goal"]["limit"], color="crimson", linewidth=0.8, linestyle="--")
        axes.invert_yaxis()
        axes.set(title=split, xlabel="ratio to paragon")
        if number:
            axes.set_yticklabels([])
    return _svg(figure)


def plot_drops(figure_2: Document) -> str:
    """Change of the distance while shards are dropped, and added."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    dropping, adding = figure.subplots(1, 2)
    for split in figure_2["splits"]:
        for axes, rows, key in ((dropping, split["dropping"], "dropped"), (adding, split["adding"], "shards")):
            places = [row[key] for row in rows]
            changes = [100 * row["change"]["value"] for row in rows]
            errors = [100 * (row["change"]["high"] - row["change"]["value"]) for row in rows]
            axes.errorbar(places, changes, yerr=errors, marker="o", markersize=3, capsize=2, label=split["split"])
    dropping.set(title="dropped one after the other", xlabel="shards dropped", ylabel="change of the distance, %")
    adding.set(title="added one after the other", xlabel="shards composed", ylabel="change against all shards, %")
    reach = max((row["dropped"] for split in figure_2["splits"] for row in split["dropping"]), default=1)
    dropping.plot([0, reach], [0, 100 * figure_2["splits"][0]["goal"]["limit"] * reach], color="crimson", linestyle="--", label="goal")
    for axes in (dropping, adding):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.legend(fontsize="small")
    return _svg(figure)


def plot_alignment(table_2: Document) -> str:
    """CLIP score of each model, with intervals."""
    figure = Figure(figsize=(10, 0.26 * len(table_2["rows"]) + 1), layout="constrained")
    for number, (key, label) in enumerate((("clip_score", "CLIP score"), ("class_retrieved", "right class, EfficientNet-Lite0"))):
        axes = figure.add_subplot(1, 2, number + 1)
        rows = [(row["model"], row[key]) for row in table_2["rows"]]
        values = [cell.get("value", cell.get("rate")) for _, cell in rows]
        reach = [[value - cell["low"] for value, (_, cell) in zip(values, rows, strict=True)]]
        reach.append([cell["high"] - value for value, (_, cell) in zip(values, rows, strict=True)])
        axes.errorbar(values, [name for name, _ in rows], xerr=reach, fmt="o", markersize=3, capsize=2)
        axes.invert_yaxis()
        axes.set(xlabel=label)
        axes.grid(axis="x", alpha=0.3)
        if number:
            axes.set_yticklabels([])
    return _svg(figure)


def plot_weights_over_time(figure_3: Document) -> str:
    """Mean of the largest weight, and of the weights' entropy, over denoising time: near shards against far ones.

    Dashed: the largest weight on the path of eq. 6.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for split in figure_3["splits"]:
        order = sorted(range(len(split["times"])), key=lambda point: -split["times"][point])
        times = [1 - split["times"][point] for point in order]
        for axes, key in zip(panels, ("mean_largest_weight", "mean_entropy"), strict=True):
            axes.plot(times, [split[key][point] for point in order], marker="o", markersize=3, label=split["split"])
        path = [1 - t for t in split["path_times"]]
        panels[0].plot(path, split["mean_largest_weight_on_the_path"], color=panels[0].lines[-1].get_color(), linestyle="--")
    for axes, label in zip(panels, ("largest weight, mean", "entropy of the weights, nats, mean"), strict=True):
        axes.set(xlabel="denoising time: noise → picture", ylabel=label, xlim=(0, 1))
        axes.legend(fontsize="small")
    return _svg(figure)


def plot_credit_over_time(split: Document) -> str:
    """Stacked weights of some pictures over denoising time."""
    pictures = split["examples"]
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    order = sorted(range(len(split["times"])), key=lambda point: -split["times"][point])
    for number, picture in enumerate(pictures):
        axes = figure.add_subplot(1, len(pictures), number + 1)
        layers = [[picture["weights"][point][column] for point in order] for column in range(len(split["shards"]))]
        axes.stackplot([1 - split["times"][point] for point in order], layers, labels=[str(shard) for shard in split["shards"]])
        axes.set(xlim=(0, 1), ylim=(0, 1), title=picture["caption"][:28], yticks=[])
        axes.title.set_fontsize("small")
    figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="x-small", title="shard")
    return _svg(figure)


def plot_memorisation(figure_4b: Document) -> str:
    """Rates of near copies, with Wilson intervals."""
    rows = figure_4b["rows"]
    figure = Figure(figsize=(8, 0.35 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    values = [100 * row["near_copies"]["rate"] for row in rows]
    reach = [[value - 100 * row["near_copies"]["low"] for value, row in zip(values, rows, strict=True)]]
    reach.append([100 * row["near_copies"]["high"] - value for value, row in zip(values, rows, strict=True)])
    axes.barh([row["model"] for row in rows], values, xerr=reach, color="#5b7fa6", ecolor="#333333")
    axes.axvline(100 * figure_4b["held_out"]["rate"], color="crimson", linestyle="--", linewidth=0.8, label="held out")
    axes.invert_yaxis()
    axes.set(xlabel="near copies of a training picture, %")
    axes.legend(fontsize="small")
    return _svg(figure)


def plot_coverage(figure_4a: Document) -> str:
    """Right group by model, for the prompts that only the new expert covers and for the others."""
    rows = figure_4a["rows"]
    figure = Figure(figsize=(9, 0.5 * len(rows) + 1), layout="constrained")
    for number, key in enumerate(("outside", "inside")):
        axes = figure.add_subplot(1, 2, number + 1)
        values = [100 * row[key]["class_retrieved"]["rate"] for row in rows]
        reach = [[value - 100 * row[key]["class_retrieved"]["low"] for value, row in zip(values, rows, strict=True)]]
        reach.append([100 * row[key]["class_retrieved"]["high"] - value for value, row in zip(values, rows, strict=True)])
        axes.barh([row["model"] for row in rows], values, xerr=reach, color="#5b7fa6", ecolor="#333333")
        axes.invert_yaxis()
        axes.set(title=f"prompts {key} the other shards", xlabel="right group, %", xlim=(0, 100))
        if number:
            axes.set_yticklabels([])
    return _svg(figure)


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lethe", "svg.fonttype": "none"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    # Inside a page there is no place for a prologue, nor for a fixed size.
    return re.sub(r"(?s)^.*?(?=<svg )", "", sink.getvalue())


def as_percent(value: float, digits: int = 1) -> str:
    """A share, for people."""
    return f"{100 * value:.{digits}f} %"


def labels(values: Sequence[object]) -> str:
    """A list, for people."""
    return ", ".join(map(str, values))
