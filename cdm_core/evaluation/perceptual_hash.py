"""A perceptual hash: 64 bits of a 32×32 picture that small changes (resizing, recompression, a shift of a pixel) leave mostly as they are.

The bits are the signs of the lowest frequencies of a two-dimensional DCT-II, as in pHash (Zauner, Implementation and Benchmarking of
Perceptual Image Hash Functions, 2010, section 3.2.1): 40 of the brightness, against their median, and 12 of each of two colour
differences, against zero, since drawings often differ in colour alone (flags, hearts). The constant term is left out: it says how bright a
picture is, not what it shows.

A hash can be compared without being known. It's cut into 8 bands of 8 bits, each spread over the frequencies, and the suppression list
keeps a keyed hash of each band with its number. Two hashes that differ in at most t bits agree in at least 8 - t bands, whatever the bits.
The list alone gives nothing back but which of its entries share a band; with the key, 256 attempts give a band, as they must: who holds
the key can test pictures.

A shift by a pixel turns many bits at this size. So whoever asks the list asks for the picture's variants too: shifted back by up to two
pixels either way, and mirrored. One of them lies close to what was erased. That needs no more entries, and holds for those of long ago.
"""

from typing import NewType

import numpy as np

from cdm_core.digests import keyed_hash

PerceptualHash = NewType("PerceptualHash", int)
"""64 bits."""

NUM_BITS, NUM_BANDS = 64, 8
MAX_SHIFT = 2
"""Pixels, of 32."""

_SIZE = 32
_LUMA_BITS, _CHROMA_BITS = 40, 12
_FLAT = 2.0
_BASIS = np.cos(np.pi * (np.arange(_SIZE)[None, :] + 0.5) * np.arange(_SIZE)[:, None] / _SIZE)  # of a DCT-II
_WEIGHTS = np.array([[0.299, 0.587, 0.114], [0.5, -0.419, -0.081], [-0.169, -0.331, 0.5]])  # ITU-R BT.601: Y, Cr, Cb


def compute_perceptual_hash(picture: np.ndarray) -> PerceptualHash | None:
    """The hash of uint8 [3, 32, 32]; None for a picture that shows nothing, whose signs would be noise."""
    planes = np.tensordot(_WEIGHTS, picture.astype(np.float64), axes=1)
    if planes[0].std() < _FLAT:
        return None
    frequencies = _BASIS @ planes @ _BASIS.T
    luma = frequencies[0][_ROWS[:_LUMA_BITS], _COLUMNS[:_LUMA_BITS]]
    chroma = frequencies[1:, _ROWS[:_CHROMA_BITS], _COLUMNS[:_CHROMA_BITS]].ravel()
    floor = 32.0 * _FLAT  # a colourless picture's differences are rounding errors
    bits = np.concatenate([luma > np.median(luma), chroma > floor])
    return PerceptualHash(int.from_bytes(np.packbits(bits).tobytes(), "big"))


def compute_variant_hashes(picture: np.ndarray) -> list[PerceptualHash]:
    """The hashes of uint8 [3, 32, 32] and of its shifts by up to two pixels, and of all these mirrored; nothing of what shows nothing."""
    variants: dict[PerceptualHash, None] = {}
    for flipped in (picture, picture[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)), mode="edge")
        for top in range(2 * MAX_SHIFT + 1):
            for left in range(2 * MAX_SHIFT + 1):
                if (value := compute_perceptual_hash(padded[:, top : top + _SIZE, left : left + _SIZE])) is not None:
                    variants[value] = None
    return list(variants)


def count_differing_bits(first: PerceptualHash, second: PerceptualHash) -> int:
    """0 to 64."""
    return (first ^ second).bit_count()


def compute_bands(secret: bytes, value: PerceptualHash) -> list[str]:
    """The keyed hashes of the 8 bands: what a list may hold of a picture."""
    bits = f"{value:064b}"
    return [keyed_hash(secret, "perceptual", str(band), bits[band::NUM_BANDS]) for band in range(NUM_BANDS)]


def _low_frequencies() -> tuple[np.ndarray, np.ndarray]:
    pairs = sorted(((row, column) for row in range(9) for column in range(9) if row + column), key=lambda pair: (sum(pair), pair))
    return np.array([row for row, _ in pairs]), np.array([column for _, column in pairs])


_ROWS, _COLUMNS = _low_frequencies()
