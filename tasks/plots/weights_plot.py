"""The stacked plot of weights over denoising time (the paper's Figs. 1 and 3), as SVG without a date: equal weights, equal bytes."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

_MOST_PANELS = 8


def plot_weights(shards: Sequence[int], times: Sequence[float], weights: Sequence[Sequence[Sequence[float]]]) -> bytes:
    """One panel a picture, of the first eight, from noise to picture; `weights[picture][point][shard]` at `times`."""
    panels = weights[:_MOST_PANELS]
    figure = Figure(figsize=(8, 1.8 * len(panels) + 0.6), layout="constrained")
    for row, picture in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        order = sorted(range(len(times)), key=lambda point: -times[point])
        layers = [[picture[point][column] for point in order] for column in range(len(shards))]
        axes.stackplot([1 - times[point] for point in order], layers, labels=[f"shard {shard}" for shard in shards])
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="weight")
        if row == 0:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    axes.set_xlabel("denoising time: noise → picture")
    sink = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lethe"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
