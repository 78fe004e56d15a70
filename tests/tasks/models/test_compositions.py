import json
from pathlib import Path

import pytest

from cdm_core.backbone import compute_backbone_digest
from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.settings import Settings, parse_settings
from tasks.data.shipped import shipped_file
from tasks.models.compositions import (
    adapter_files,
    centroid_files,
    compose,
    expert_of,
    load_composition,
    replace_experts,
    save_composition,
    saved_compositions,
    tainted_adapters,
)
from tasks.models.evaluation import ShardDescription
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import TrainedShard
from tasks.workspace import Workspace


def adapter(name: str) -> Digest:
    return sha256_digest(name.encode())


def expert(shard: int, name: str, samples: int = 3) -> Expert:
    return Expert(shard=shard, adapter=adapter(name), samples=samples, centroids=sha256_digest(f"centroids of {name}".encode()))


@pytest.fixture
def settings() -> Settings:
    return parse_settings(shipped_file("params.yaml").read_bytes(), "params.yaml")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def store_adapters(ws: Workspace, *names: str, shard: int = 0) -> CheckpointStore:
    store = CheckpointStore(ws.checkpoints)
    for stage, name in enumerate(names):
        store.write(sha256_digest(f"key of {name}".encode()), name.encode(), shard=shard, stage=stage)
    return store


def test_a_composition_holds_what_was_trained_on_something(settings: Settings) -> None:
    composed = compose(settings, [expert(2, "c"), expert(0, "a"), expert(1, "b", samples=0)])
    assert composed.experts == (expert(0, "a"), expert(2, "c"))
    assert composed.backbone == compute_backbone_digest()
    assert (composed.sampling, composed.knn_temperature) == (settings.sampling, settings.knn.temperature)


def test_an_expert_is_what_training_and_description_gave() -> None:
    trained = TrainedShard(shard=4, samples=9, adapter=adapter("a"), chain=(), stages_reused=0, steps=1, steps_full=1, seconds=0.1)
    described = ShardDescription(
        shard=4, samples=9, centroids=adapter("c"), centroids_files=(), moments_file=Path("m"), seen_file=Path("s")
    )
    assert expert_of(trained, described) == Expert(shard=4, adapter=adapter("a"), samples=9, centroids=adapter("c"))


def test_replacing_experts_leaves_the_others_as_they_are(settings: Settings) -> None:
    base = compose(settings, [expert(0, "a"), expert(1, "b"), expert(2, "c")])
    assert replace_experts(settings, base, [1], [expert(1, "new")]).experts == (expert(0, "a"), expert(1, "new"), expert(2, "c"))
    assert replace_experts(settings, base, [1, 2], []).experts == (expert(0, "a"),)
    assert replace_experts(settings, base, [0], [expert(0, "a", samples=0)]).shards == (1, 2)
    assert replace_experts(settings, base, [3], [expert(3, "d")]).shards == (0, 1, 2, 3)


def test_what_is_saved_is_loaded(ws: Workspace, settings: Settings) -> None:
    composed = compose(settings, [expert(0, "a")])
    path = save_composition(ws, composed)
    assert path == save_composition(ws, composed)
    assert load_composition(ws, composed.digest) == composed
    assert saved_compositions(ws) == {composed.digest: composed}


def test_what_is_not_there_is_missed(ws: Workspace) -> None:
    with pytest.raises(StateError, match=rf"{adapter('x')}\.json: no such composition; make the model anew with: lethe build$"):
        load_composition(ws, adapter("x"))


def test_a_composition_put_in_anothers_place_is_refused(ws: Workspace, settings: Settings) -> None:
    composed, other = compose(settings, [expert(0, "a")]), compose(settings, [expert(0, "tainted")])
    save_composition(ws, composed).write_bytes(other.to_bytes())
    with pytest.raises(VerificationError, match=rf"{composed.digest}\.json: not the composition that its name says$"):
        load_composition(ws, composed.digest)


def test_a_tampered_composition_is_refused(ws: Workspace, settings: Settings) -> None:
    composed = compose(settings, [expert(0, "a")])
    document = json.loads(composed.to_bytes())
    save_composition(ws, composed).write_text(json.dumps(document | {"experts": "none"}))
    with pytest.raises(VerificationError, match=r"^composition: not a lethe/composition/v1 document"):
        load_composition(ws, composed.digest)


def test_adapters_are_found_by_digest(ws: Workspace, settings: Settings) -> None:
    store_adapters(ws, "a.0", "a", shard=0)
    store_adapters(ws, "b", shard=1)
    files = adapter_files(ws, compose(settings, [expert(0, "a"), expert(1, "b")]))
    assert {shard: path.read_bytes() for shard, path in files.items()} == {0: b"a", 1: b"b"}


def test_an_adapter_that_the_store_lacks_is_missed(ws: Workspace, settings: Settings) -> None:
    store_adapters(ws, "a")
    with pytest.raises(StateError, match=f"^checkpoints: no adapter {adapter('b')[:12]} for shard 1; run: lethe build$"):
        adapter_files(ws, compose(settings, [expert(0, "a"), expert(1, "b")]))


def test_centroids_are_found_by_digest_as_far_as_they_are_there(ws: Workspace, settings: Settings) -> None:
    folder = ws.cache / "shards"
    folder.mkdir(parents=True)
    (folder / "x.centroids.safetensors").write_bytes(b"centroids of a")
    (folder / "y.moments.safetensors").write_bytes(b"centroids of b")
    composed = compose(settings, [expert(0, "a"), expert(1, "b")])
    assert centroid_files(ws, composed) == {0: folder / "x.centroids.safetensors"}


def test_tainted_is_what_a_hit_shard_ever_had_and_is_not_clean(ws: Workspace, settings: Settings) -> None:
    store_adapters(ws, "a.0", "a.1", shard=0)
    store_adapters(ws, "b.0", "b.1", shard=1)
    save_composition(ws, compose(settings, [expert(0, "older"), expert(1, "b.1")]))
    assert tainted_adapters(ws, [0], {0: {adapter("a.0")}}) == {adapter("a.1"), adapter("older")}
    assert tainted_adapters(ws, [0, 1], {0: {adapter("a.0"), adapter("a.1"), adapter("older")}}) == {adapter("b.0"), adapter("b.1")}
    assert tainted_adapters(ws, [], {}) == set()


def test_an_empty_workspace_has_no_composition(ws: Workspace, settings: Settings) -> None:
    assert saved_compositions(ws) == {}
    assert adapter_files(ws, compose(settings, [])) == {}
    assert isinstance(compose(settings, []), Composition)
