import csv
from pathlib import Path

import pytest

from tasks.data.demo_pictures import draw_shapes
from tasks.data.pictures import normalise_picture


def test_shapes_are_drawn_with_captions(tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path / "shapes", 7)
    with (folder / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.png")}
    assert rows[0] == {"file": "red-circle.png", "caption": "red circle"}


def test_all_pictures_differ_and_are_read_as_any_arrival_is(tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path / "shapes", 100)
    pictures = {normalise_picture(path.read_bytes(), path.name) for path in folder.glob("*.png")}
    assert len(pictures) == 24


def test_the_same_shapes_have_the_same_pixels(tmp_path: Path) -> None:
    drawn = [
        [normalise_picture(path.read_bytes(), path.name) for path in sorted(draw_shapes(tmp_path / name, 24).glob("*.png"))]
        for name in ("one", "two")
    ]
    assert drawn[0] == drawn[1]


def test_a_folder_that_is_there_is_not_drawn_into(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        draw_shapes(tmp_path, 1)
