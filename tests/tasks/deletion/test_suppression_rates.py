"""How often the perceptual suppression finds altered copies, and how often it hits other pictures, on OpenMoji; prints the figures.

OpenMoji has many pictures that differ in a skin tone, a flag's shade or a hand: most of what is refused there is such a relative, often of
the same designer. The copy is made from what was erased, as it is stored at 32×32.
"""

import sys
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from cdm_core.evaluation.perceptual_hash import NUM_BANDS, compute_perceptual_hash, compute_variant_hashes
from tasks.data.openmoji import render_openmoji
from tasks.data.pictures import decode_picture

NUM_ERASED, NUM_ASKED, ENOUGH = 300, 800, 6


def _bands(value: int) -> np.ndarray:
    bits = np.array(list(f"{value:064b}"), dtype=np.uint8).reshape(-1, NUM_BANDS)
    return np.packbits(bits.T, axis=1)[:, 0]


def _most_agreeing(picture: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Of each listed picture, in how many bands a variant agrees at most."""
    variants = [_bands(value) for value in compute_variant_hashes(picture)]
    if not variants:
        return np.zeros(len(listed), dtype=np.int64)
    most: np.ndarray = (np.stack(variants)[:, None, :] == listed[None]).sum(axis=2).max(axis=0)
    return most


def _shift(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="edge")[:, 2 - down : 34 - down, 2 - right : 34 - right]


def _through(edit: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda picture: np.asarray(edit(Image.fromarray(picture.transpose(1, 2, 0))).convert("RGB")).transpose(2, 0, 1)


def _recompress(image: Image.Image) -> Image.Image:
    sink = BytesIO()
    image.resize((128, 128), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=80)
    return Image.open(sink).resize((32, 32), Image.Resampling.BOX)


def _shrink(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (32, 32), "white")
    canvas.paste(image.resize((30, 30), Image.Resampling.BICUBIC), (1, 1))
    return canvas


_BICUBIC = Image.Resampling.BICUBIC
COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same": lambda picture: picture,
    "a tenth darker": lambda picture: (picture * 0.9).astype(np.uint8),
    "JPEG, quality 80": _through(_recompress),
    "resized to 50 and back": _through(lambda image: image.resize((50, 50), _BICUBIC).resize((32, 32), _BICUBIC)),
    "shifted by 1 pixel": lambda picture: _shift(picture, 0, 1),
    "shifted by 1 and 1": lambda picture: _shift(picture, 1, 1),
    "shifted by 2": lambda picture: _shift(picture, 0, 2),
    "shifted by 2 and 2": lambda picture: _shift(picture, -2, 2),
    "shifted by half a pixel": lambda picture: ((_shift(picture, 0, 1).astype(np.int64) + picture) // 2).astype(np.uint8),
    "mirrored": lambda picture: picture[:, :, ::-1],
    "mirrored, shifted by 1": lambda picture: _shift(picture[:, :, ::-1], 0, 1),
    "6 % smaller": _through(_shrink),
    "turned by 3 degrees": _through(lambda image: image.rotate(3, _BICUBIC, fillcolor="white")),
}
AT_LEAST = {"the same": 1.0, "shifted by 1 pixel": 0.85, "shifted by 2": 0.7, "mirrored": 0.95, "JPEG, quality 80": 0.8}


@pytest.mark.slow
def test_rates(capsys: pytest.CaptureFixture[str]) -> None:
    sources = list(render_openmoji(lambda done, total: None))
    distinct = {source.png: source.owner_id for source in sources}  # of equal pictures one
    pictures, owners = [decode_picture(png) for png in distinct], list(distinct.values())
    generator = np.random.default_rng(0)
    rows = [row for row in generator.choice(len(pictures), NUM_ERASED, replace=False) if compute_perceptual_hash(pictures[row]) is not None]
    listed = np.stack([_bands(compute_perceptual_hash(pictures[row]) or 0) for row in rows])
    found = {
        name: float(np.mean([_most_agreeing(copy(pictures[row]), listed[at : at + 1])[0] >= ENOUGH for at, row in enumerate(rows)]))
        for name, copy in COPIES.items()
    }
    asked = generator.choice(len(pictures), NUM_ASKED, replace=False)
    hits = np.stack([_most_agreeing(pictures[row], listed) >= ENOUGH for row in asked])
    other = np.array([[row != erased for erased in rows] for row in asked])
    elsewhere = np.array([[owners[row] != owners[erased] for erased in rows] for row in asked])
    refused = {
        "pairs of different pictures": (hits & other).sum() / other.sum(),
        "pairs of different owners": (hits & other & elsewhere).sum() / (other & elsewhere).sum(),
        f"pictures, against {len(rows)} erased ones": (hits & other).any(axis=1).mean(),
        f"pictures, against {len(rows)} erased ones of other owners": (hits & other & elsewhere).any(axis=1).mean(),
    }
    lines = [f"of {len(rows)} erased pictures of {len(pictures)}, copies refused:"]
    lines += [f"  {name}: {share:.0%}" for name, share in found.items()]
    lines += ["other pictures refused:", *(f"  {name}: {share:.3%}" for name, share in refused.items())]
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))
    for name, share in AT_LEAST.items():
        assert found[name] >= share, name
    assert refused["pairs of different owners"] < 0.0005
