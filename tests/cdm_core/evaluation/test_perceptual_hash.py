import numpy as np

from cdm_core.evaluation.perceptual_hash import (
    NUM_BANDS,
    PerceptualHash,
    compute_bands,
    compute_perceptual_hash,
    compute_variant_hashes,
    count_differing_bits,
)

SECRET = bytes(range(32))


def drawing(seed: int) -> np.ndarray:
    """Soft patches of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 6, 6), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 6, 6), dtype=np.uint8))[:, :32, :32]


def test_brightness_and_noise_change_few_bits_and_another_picture_many() -> None:
    noise = np.random.default_rng(0).integers(-4, 5, (3, 32, 32))
    for seed in range(20):
        picture, value = drawing(seed), compute_perceptual_hash(drawing(seed))
        altered = compute_perceptual_hash(np.clip(picture * 0.9 + noise, 0, 255).astype(np.uint8))
        other = compute_perceptual_hash(drawing(seed + 100))
        assert value is not None
        assert altered is not None
        assert other is not None
        assert count_differing_bits(value, altered) <= 4
        assert count_differing_bits(value, other) >= 14


def test_a_picture_that_shows_nothing_has_no_hash() -> None:
    assert compute_perceptual_hash(np.full((3, 32, 32), 200, dtype=np.uint8)) is None


def test_hashes_agree_in_all_bands_but_those_that_differ() -> None:
    value = PerceptualHash(0x0123456789ABCDEF)
    bands = compute_bands(SECRET, value)
    assert len(set(bands)) == NUM_BANDS
    for bit in range(64):
        changed = compute_bands(SECRET, PerceptualHash(value ^ (1 << bit)))
        assert sum(one == other for one, other in zip(bands, changed, strict=True)) == NUM_BANDS - 1
    assert not set(bands) & set(compute_bands(SECRET[::-1], value))


def test_variants_undo_a_shift_and_a_mirror() -> None:
    for seed in range(5):
        wide = np.pad(drawing(seed)[:, :24, :24], ((0, 0), (6, 6), (6, 6)), constant_values=255)  # a margin, so that nothing is lost
        value = compute_perceptual_hash(wide[:, 2:34, 2:34])
        for changed in (wide[:, 0:32, 2:34], wide[:, 3:35, 1:33], wide[:, 2:34, 2:34][:, :, ::-1], wide[:, 4:36, 4:36]):
            closest = min(count_differing_bits(value, variant) for variant in compute_variant_hashes(changed))  # type: ignore[arg-type]
            assert closest <= 6
    assert compute_variant_hashes(np.full((3, 32, 32), 200, dtype=np.uint8)) == []
