"""A plot of what forgetting costs: one group of bars for each number of requests that are carried out together."""

import io
from collections.abc import Mapping, Sequence


def draw_forget_plot(by_batch: Mapping[int, Sequence[Mapping[str, object]]]) -> bytes:
    """An SVG of each side's share of the monolith's steps, on a logarithmic axis; a share that there isn't has no bar."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    names = [str(side["name"]) for side in next(iter(by_batch.values()))]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        shares = [sides[number]["steps_share"] for sides in by_batch.values()]
        known = [(place, 100 * float(str(share))) for place, share in enumerate(shares) if share is not None]
        axes.bar([place + number * width for place, _ in known], [percent for _, percent in known], width, label=name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(by_batch))], [f"{batch} together" for batch in by_batch])
    axes.set_yscale("log")
    axes.set_ylabel("training steps, % of the monolith's")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
