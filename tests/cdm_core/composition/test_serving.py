"""A model is put together from files that are what the composition names, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny_backbone import make_adapter, make_composition, tiny_backbone

from cdm_core.adapters import adapter_to_bytes
from cdm_core.backbone import load_backbone
from cdm_core.composition.document import Composition
from cdm_core.composition.serving import CENTROIDS_NAME, ComposedModel, load_composed_model
from cdm_core.errors import StateError, VerificationError

SAMPLES = {0: 5, 2: 9}


@pytest.fixture
def adapters(tmp_path: Path) -> dict[int, Path]:
    return {shard: write(tmp_path / f"adapter-{shard}", adapter_to_bytes(make_adapter(shard))) for shard in SAMPLES}


@pytest.fixture
def centroids(tmp_path: Path) -> dict[int, Path]:
    return {shard: write(tmp_path / f"centroids-{shard}", save({CENTROIDS_NAME: torch.full((1, 128), float(shard))})) for shard in SAMPLES}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def load(composition: Composition, adapters: dict[int, Path], centroids: dict[int, Path] | None = None) -> ComposedModel:
    return load_composed_model(composition.to_bytes(), adapters, centroids, tiny_backbone())


def test_a_model_makes_pictures_and_says_which_shard_made_them(adapters: dict[int, Path]) -> None:
    model = load(make_composition(tiny_backbone(), SAMPLES, steps=1), adapters)
    seeds = list(range(8))
    pictures = model.generate(["cat", None, "", "dog"] * 2, seeds)
    assert pictures.shape == (8, 3, 32, 32)
    assert pictures.dtype == torch.uint8
    assert set(model.shards_of(seeds)) == {0, 2}
    for shard in SAMPLES:
        rows = [row for row, maker in enumerate(model.shards_of(seeds)) if maker == shard]
        alone = load(make_composition(tiny_backbone(), {shard: SAMPLES[shard]}, steps=1), adapters)
        assert torch.equal(alone.generate([(["cat", None, "", "dog"] * 2)[row] for row in rows], rows), pictures[rows])


def test_no_prompt_is_the_empty_prompt(adapters: dict[int, Path]) -> None:
    model = load(make_composition(tiny_backbone(), SAMPLES, steps=1), adapters)
    assert torch.equal(model.generate([None], [1]), model.generate([""], [1]))


def test_methods_that_mix_shards_name_none(adapters: dict[int, Path]) -> None:
    assert load(make_composition(tiny_backbone(), SAMPLES, "average"), adapters).shards_of([1, 2]) == [None, None]


def test_without_experts_the_bare_backbone_serves() -> None:
    model = load(make_composition(tiny_backbone(), {}, steps=1), {})
    assert model.experts == (tiny_backbone().network,)
    assert model.generate(["cat"], [1]).shape == (1, 3, 32, 32)
    assert model.shards_of([1]) == [None]


def test_the_bare_backbone_needs_no_centroids_for_knn() -> None:
    assert load(make_composition(tiny_backbone(), {}, "knn", steps=1), {}).generate([None], [1]).shape == (1, 3, 32, 32)


def test_an_adapter_that_is_not_listed_is_not_opened(adapters: dict[int, Path]) -> None:
    adapters[2].write_bytes(b"not an adapter")
    assert load(make_composition(tiny_backbone(), {0: 5}, steps=1), adapters).shards_of([1]) == [0]


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_tampered_adapter_is_refused(adapters: dict[int, Path], position: int) -> None:
    content = bytearray(adapters[2].read_bytes())
    content[position] ^= 1
    adapters[2].write_bytes(content)
    with pytest.raises(VerificationError, match=r"^adapter of shard 2: adapter-2 is not the file of digest [0-9a-f]{12}$"):
        load(make_composition(tiny_backbone(), SAMPLES), adapters)


def test_another_shards_adapter_is_refused(adapters: dict[int, Path]) -> None:
    with pytest.raises(VerificationError, match=r"^adapter of shard 0: adapter-2 is not the file of digest"):
        load(make_composition(tiny_backbone(), SAMPLES), {0: adapters[2], 2: adapters[0]})


@pytest.mark.parametrize("is_named", [True, False])
def test_a_missing_adapter_is_refused(adapters: dict[int, Path], is_named: bool) -> None:
    adapters[2].unlink()
    with pytest.raises(VerificationError, match=r"^adapter of shard 2: no file for digest [0-9a-f]{12}$"):
        load(make_composition(tiny_backbone(), SAMPLES), adapters if is_named else {0: adapters[0]})


def test_another_backbone_is_refused(adapters: dict[int, Path]) -> None:
    with pytest.raises(VerificationError, match=r"^composition: made for another backbone than the one installed$"):
        load(make_composition(tiny_backbone(1), SAMPLES), adapters)


def test_by_default_the_shipped_backbone_serves() -> None:
    shipped = load_backbone()
    model = load_composed_model(make_composition(shipped, {}, steps=1).to_bytes(), {})
    assert model.backbone.digest == shipped.digest


def test_a_malformed_composition_is_refused(adapters: dict[int, Path]) -> None:
    content = make_composition(tiny_backbone(), SAMPLES).to_bytes()
    with pytest.raises(VerificationError, match=r"^composition: not a lethe/composition/v1 document"):
        load_composed_model(content[:-1], adapters, None, tiny_backbone())


def knn_composition(centroids: dict[int, Path]) -> Composition:
    files = {shard: path.read_bytes() for shard, path in centroids.items()}
    return make_composition(tiny_backbone(), SAMPLES, "knn", steps=1, centroids=files)


def test_knn_reads_the_centroids(adapters: dict[int, Path], centroids: dict[int, Path]) -> None:
    model = load(knn_composition(centroids), adapters, centroids)
    assert model.generate(["cat"], [1]).shape == (1, 3, 32, 32)
    assert model.shards_of([1]) == [None]


def test_knn_with_a_stopped_shard_is_refused(adapters: dict[int, Path]) -> None:
    with pytest.raises(StateError, match=r"^knn: shard 0 has no centroids while it is stopped; use another method$"):
        load(make_composition(tiny_backbone(), SAMPLES, "knn"), adapters)


def test_tampered_centroids_are_refused(adapters: dict[int, Path], centroids: dict[int, Path]) -> None:
    composition = knn_composition(centroids)
    centroids[0].write_bytes(centroids[2].read_bytes())
    with pytest.raises(VerificationError, match=r"^centroids of shard 0: centroids-0 is not the file of digest"):
        load(composition, adapters, centroids)


def test_missing_centroids_are_refused(adapters: dict[int, Path], centroids: dict[int, Path]) -> None:
    with pytest.raises(VerificationError, match=r"^centroids of shard 0: no file for digest"):
        load(knn_composition(centroids), adapters)
