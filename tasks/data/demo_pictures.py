"""Pictures for the demo's arriving owner: plain shapes with captions, drawn here so that nobody's picture is used."""

import csv
from itertools import islice, product
from pathlib import Path

from PIL import Image, ImageDraw

_COLOURS = {"red": "#d23b3b", "orange": "#e8862e", "yellow": "#efc93d", "green": "#4a9c4e", "blue": "#3d6fc4", "purple": "#7d4fb0"}
_SHAPES = ("circle", "square", "diamond", "bar")


def draw_shapes(folder: Path, num: int) -> Path:
    """Draw `num` (at most 24) shapes as PNG files with `captions.csv` into a new folder; returns the folder."""
    folder.mkdir(parents=True)
    rows = []
    for shape, colour in islice(product(_SHAPES, _COLOURS), num):
        name = f"{colour}-{shape}.png"
        _draw(shape, _COLOURS[colour]).save(folder / name)
        rows.append({"file": name, "caption": f"{colour} {shape}"})
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _draw(shape: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    match shape:
        case "circle":
            draw.ellipse((20, 20, 108, 108), fill=colour, outline="black", width=5)
        case "square":
            draw.rectangle((24, 24, 104, 104), fill=colour, outline="black", width=5)
        case "diamond":
            draw.polygon([(64, 12), (116, 64), (64, 116), (12, 64)], fill=colour, outline="black", width=5)
        case _:
            draw.rectangle((12, 48, 116, 80), fill=colour, outline="black", width=5)
    return image
