"""A sheet of pictures as one PNG: what a reviewer looks at before and after a deletion. The same pictures give the same bytes."""

import io
from math import ceil

import torch
from PIL import Image
from torch import Tensor

GUTTER_PIXELS = 4
WHITE = 255


def build_grid(pictures: Tensor, columns: int, scale: int) -> bytes:
    """Lay pictures, uint8 [N, 3, H, W], row by row on white, each pixel enlarged to scale × scale.

    Raises:
        ValueError: pictures of another type or shape, or none; columns or scale below 1.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) == 0:
        raise ValueError(f"a grid needs uint8 [N, 3, H, W] with N > 0, not {pictures.dtype} {list(pictures.shape)}")
    if columns < 1 or scale < 1:
        raise ValueError(f"a grid needs columns and scale of 1 or more, not {columns} and {scale}")
    enlarged = pictures.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    height, width = (size + GUTTER_PIXELS for size in enlarged.shape[2:])
    columns = min(columns, len(enlarged))
    rows = ceil(len(enlarged) / columns)
    sheet = torch.full((3, rows * height + GUTTER_PIXELS, columns * width + GUTTER_PIXELS), WHITE, dtype=torch.uint8)
    for index, picture in enumerate(enlarged):
        top, left = index // columns * height + GUTTER_PIXELS, index % columns * width + GUTTER_PIXELS
        sheet[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
