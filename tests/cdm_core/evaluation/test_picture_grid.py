import io

import numpy as np
import pytest
import torch
from PIL import Image

from cdm_core.evaluation.picture_grid import GUTTER_PIXELS, build_grid


def random_pictures(num: int) -> torch.Tensor:
    return torch.randint(0, 255, (num, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.array(image)


def test_every_picture_lies_in_its_place_on_white():
    pictures = random_pictures(5)
    sheet = decode(build_grid(pictures, columns=3, scale=2))
    gutter, height, width = GUTTER_PIXELS, 8, 12
    assert sheet.shape == (2 * height + 3 * gutter, 3 * width + 4 * gutter, 3)
    is_covered = np.zeros(sheet.shape[:2], dtype=bool)
    for index, picture in enumerate(pictures):
        top, left = gutter + index // 3 * (height + gutter), gutter + index % 3 * (width + gutter)
        cell = sheet[top : top + height, left : left + width]
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):  # each pixel is a 2 × 2 block
            assert (cell[row::2, column::2] == picture.permute(1, 2, 0).numpy()).all()
        is_covered[top : top + height, left : left + width] = True
    assert (sheet[~is_covered] == 255).all()


def test_equal_pictures_give_equal_bytes():
    assert build_grid(random_pictures(4), 2, 3) == build_grid(random_pictures(4), 2, 3)


def test_fewer_pictures_than_columns_leave_no_empty_ones():
    assert decode(build_grid(random_pictures(2), columns=10, scale=1)).shape[1] == 2 * 6 + 3 * GUTTER_PIXELS


@pytest.mark.parametrize("pictures", [torch.zeros(1, 3, 4, 4), random_pictures(0), random_pictures(1)[0], random_pictures(1)[:, :1]])
def test_other_pictures_are_refused(pictures):
    with pytest.raises(ValueError, match=r"a grid needs uint8 \[N, 3, H, W\] with N > 0, not torch\."):
        build_grid(pictures, 1, 1)


@pytest.mark.parametrize(("columns", "scale"), [(0, 1), (1, 0)])
def test_empty_layouts_are_refused(columns, scale):
    with pytest.raises(ValueError, match=f"a grid needs columns and scale of 1 or more, not {columns} and {scale}"):
        build_grid(random_pictures(1), columns, scale)
