"""The claim that everything rests on: forgetting by resuming from the last clean checkpoint gives the bytes that training from nothing on
the remaining samples gives.

A chain of stages is trained with and without a set of samples, on a backbone small enough to do it dozens of times, and once on the
shipped one.
"""

import random
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_backbone import make_samples, tiny_backbone

from cdm_core.adapters import adapter_from_bytes, adapter_to_bytes, attach_adapter, initial_adapter, merge_adapter
from cdm_core.backbone import PixelBackbone, load_backbone
from cdm_core.chain import compute_chain, num_reusable_stages
from cdm_core.digests import Digest, json_digest, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.fingerprint import measure_fingerprint
from cdm_core.settings import TrainingSettings
from cdm_core.training import StagePosition, StageSamples, _batches, compute_denoising_loss, num_steps, order_samples, train_stage

SHARD = 3
SETTINGS = TrainingSettings(rank=2, learning_rate=0.01, batch_size=3, epochs=2, caption_dropout=0.3)
# Three stages; the owner is the letter. Sizes 4, 3 and 5 with batches of 3: a ragged last batch in the first and the last stage.
PLAN = [["a1", "a2", "b1", "c1"], ["a3", "b2", "b3"], ["a4", "c2", "c3", "c4", "c5"]]

Store = dict[Digest, bytes]


def chain_keys(backbone: PixelBackbone, plan: list[list[str]], settings: TrainingSettings) -> list[Digest]:
    digests = [json_digest(sorted(make_samples(names).sample_ids)) for names in plan]
    return compute_chain(SHARD, digests, settings, backbone.digest, measure_fingerprint({}))


def train_chain(
    backbone: PixelBackbone, plan: list[list[str]], settings: TrainingSettings, store: Mapping[Digest, bytes] | None = None
) -> tuple[Store, list[Digest], int]:
    """(each stage's adapter bytes by key, the keys, how many stages were found in `store` and not trained)."""
    model = attach_adapter(backbone, settings.rank)
    keys = chain_keys(backbone, plan, settings)
    found = store or {}
    reused = num_reusable_stages(keys, found.__contains__)
    made = {key: found[key] for key in keys[:reused]}
    adapter = adapter_from_bytes(made[keys[reused - 1]]) if reused else initial_adapter(model, SHARD)
    for stage in range(reused, len(plan)):
        position = StagePosition(shard=SHARD, stage=stage)
        adapter = train_stage(backbone, model, adapter, make_samples(plan[stage]), position, settings)
        made[keys[stage]] = adapter_to_bytes(adapter)
    return made, keys, reused


def without(plan: list[list[str]], removed: Iterable[str]) -> list[list[str]]:
    gone = set(removed)
    return [[name for name in names if name not in gone] for names in plan]


def digests_of(made: Store, keys: list[Digest]) -> list[Digest]:
    return [sha256_digest(made[key]) for key in keys]


@pytest.fixture(scope="module")
def trained() -> Store:
    """Checkpoints of the whole plan."""
    return train_chain(tiny_backbone(), PLAN, SETTINGS)[0]


@pytest.mark.parametrize(
    ("removed", "clean_stages"),
    [
        pytest.param(["c5"], 2, id="one sample of the last stage"),
        pytest.param(["a4", "c2"], 2, id="the last stage, another number of steps"),
        pytest.param(["a3"], 1, id="a middle stage"),
        pytest.param(["b1"], 0, id="the first stage"),
        pytest.param(["a1", "a2", "a3", "a4"], 0, id="an owner in every stage"),
        pytest.param(["b2", "b3", "c2"], 1, id="two owners"),
        pytest.param(["a3", "b2", "b3"], 1, id="a whole stage"),
        pytest.param([name for stage in PLAN for name in stage], 0, id="the whole shard"),
    ],
)
def test_resumed_after_a_deletion_equals_trained_from_scratch_without_the_samples(
    trained: Store, removed: list[str], clean_stages: int
) -> None:
    remaining = without(PLAN, removed)
    resumed, keys, reused = train_chain(tiny_backbone(), remaining, SETTINGS, trained)
    scratch, scratch_keys, _ = train_chain(tiny_backbone(), remaining, SETTINGS)
    assert reused == clean_stages
    assert keys == scratch_keys
    assert digests_of(resumed, keys) == digests_of(scratch, keys)
    # The canary: with the samples it comes out otherwise, from the first stage that held one.
    is_same = [new == old for new, old in zip(digests_of(resumed, keys), digests_of(trained, list(trained)), strict=True)]
    assert is_same == [stage < clean_stages for stage in range(len(PLAN))]


@given(
    sizes=st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any),
    removed=st.data(),
)
@settings(max_examples=8, deadline=None)
def test_resumed_equals_scratch_whatever_is_deleted(sizes: list[int], removed: st.DataObject) -> None:
    short = SETTINGS.model_copy(update={"epochs": 1})
    plan = [[f"{stage}-{number}" for number in range(size)] for stage, size in enumerate(sizes)]
    gone = removed.draw(st.sets(st.sampled_from([name for stage in plan for name in stage]), min_size=1), label="removed")
    first_hit = next(stage for stage, names in enumerate(plan) if gone & set(names))
    store, _, _ = train_chain(tiny_backbone(), plan, short)
    resumed, keys, reused = train_chain(tiny_backbone(), without(plan, gone), short, store)
    scratch, _, _ = train_chain(tiny_backbone(), without(plan, gone), short)
    assert reused == first_hit
    assert digests_of(resumed, keys) == digests_of(scratch, keys)
    assert digests_of(resumed, keys)[-1] != sha256_digest(list(store.values())[-1])


def test_resumed_equals_scratch_on_the_shipped_backbone() -> None:
    backbone = load_backbone()
    plan = [["a1", "b1"], ["a2", "b2", "b3"], ["a3", "c1"]]
    shipped = TrainingSettings(rank=8, learning_rate=0.001, batch_size=2, epochs=1, caption_dropout=0.1)
    store, _, _ = train_chain(backbone, plan, shipped)
    remaining = without(plan, ["b2", "a3"])
    resumed, keys, reused = train_chain(backbone, remaining, shipped, store)
    scratch, _, _ = train_chain(backbone, remaining, shipped)
    assert reused == 1
    assert digests_of(resumed, keys) == digests_of(scratch, keys)
    assert sha256_digest(resumed[keys[-1]]) != sha256_digest(list(store.values())[-1])


def test_stages_with_epochs_of_their_own(trained: Store) -> None:
    """Other epochs from the second stage on reuse the first, and come out as from scratch."""
    planned = SETTINGS.model_copy(update={"epochs": [2, 1, 3]})
    resumed, keys, reused = train_chain(tiny_backbone(), without(PLAN, ["c5"]), planned, trained)
    scratch, _, _ = train_chain(tiny_backbone(), without(PLAN, ["c5"]), planned)
    assert reused == 1
    assert digests_of(resumed, keys) == digests_of(scratch, keys)
    assert [num_steps(len(names), planned, stage) for stage, names in enumerate(PLAN)] == [4, 1, 6]


def train_once(samples: StageSamples, settings: TrainingSettings = SETTINGS, *, shard: int = SHARD, stage: int = 0) -> Digest:
    backbone = tiny_backbone()
    model = attach_adapter(backbone, settings.rank)
    start = initial_adapter(model, SHARD)
    return sha256_digest(adapter_to_bytes(train_stage(backbone, model, start, samples, StagePosition(shard=shard, stage=stage), settings)))


def reorder(samples: StageSamples, rows: list[int]) -> StageSamples:
    return StageSamples(
        sample_ids=[samples.sample_ids[row] for row in rows],
        captions=[samples.captions[row] for row in rows],
        pictures=samples.pictures[rows],
    )


def test_the_order_in_which_samples_are_handed_over_changes_nothing() -> None:
    samples = make_samples(["a", "b", "c", "d", "e", "f", "g"])
    assert train_once(reorder(samples, [6, 2, 4, 0, 5, 1, 3])) == train_once(samples)


def test_nor_does_it_where_two_owners_made_one_picture_and_named_it_differently() -> None:
    one = make_samples(["a", "b", "a"])
    two_names = StageSamples(sample_ids=one.sample_ids, captions=["cat", "dog", "kitten"], pictures=one.pictures)
    single = SETTINGS.model_copy(update={"batch_size": 1, "caption_dropout": 0.0})  # in one batch the sum would hide the order
    assert train_once(reorder(two_names, [2, 1, 0]), single) == train_once(two_names, single)


def test_global_generators_are_neither_read_nor_moved() -> None:
    samples = make_samples(["a", "b", "c", "d"])
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # the global one is meant
        digests.append(train_once(samples))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert np.random.get_state()[1].tobytes() == states[2]
    assert digests[0] == digests[1]


def test_environment_variables_of_accelerate_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples(["a", "b", "c", "d"])
    expected = train_once(samples)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    assert train_once(samples) == expected


def test_what_the_scratch_model_trained_before_changes_nothing() -> None:
    backbone, position = tiny_backbone(), StagePosition(shard=SHARD, stage=0)
    used, fresh = attach_adapter(backbone, 2), attach_adapter(backbone, 2)
    start, samples = initial_adapter(fresh, SHARD), make_samples(["a", "b", "c", "d"])
    train_stage(backbone, used, start, make_samples(["x", "y"]), StagePosition(shard=7, stage=1), SETTINGS)
    again, once = (train_stage(backbone, model, start, samples, position, SETTINGS) for model in (used, fresh))
    assert adapter_to_bytes(again) == adapter_to_bytes(once)


def test_training_changes_neither_the_backbone_nor_the_adapter_it_starts_from() -> None:
    backbone = tiny_backbone()
    weights = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    model = attach_adapter(backbone, 2)
    start = initial_adapter(model, SHARD)
    before = adapter_to_bytes(start)
    train_stage(backbone, model, start, make_samples(["a", "b"]), StagePosition(shard=SHARD, stage=0), SETTINGS)
    assert adapter_to_bytes(start) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.network.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"batch_size": 2},
        {"epochs": 1},
        {"caption_dropout": 0.9},
    ],
    ids=str,
)
def test_every_setting_counts(change: dict[str, float]) -> None:
    samples = make_samples(["a", "b", "c", "d"])
    assert train_once(samples, SETTINGS.model_copy(update=change)) != train_once(samples)


def test_position_caption_and_sample_count() -> None:
    samples = make_samples(["a", "b", "c"])
    renamed = StageSamples(sample_ids=samples.sample_ids, captions=["other", *samples.captions[1:]], pictures=samples.pictures)
    repainted = StageSamples(sample_ids=samples.sample_ids, captions=samples.captions, pictures=255 - samples.pictures)
    digests = {
        train_once(samples),
        train_once(samples, shard=SHARD + 1),
        train_once(samples, stage=1),
        train_once(renamed),
        train_once(repainted),
        train_once(make_samples(["a", "b"])),
    }
    assert len(digests) == 6


def test_a_stage_without_samples_hands_its_adapter_on() -> None:
    backbone = tiny_backbone()
    model = attach_adapter(backbone, 2)
    start = initial_adapter(model, SHARD)
    passed_on = train_stage(backbone, model, start, make_samples([]), StagePosition(shard=SHARD, stage=0), SETTINGS)
    assert adapter_to_bytes(passed_on) == adapter_to_bytes(start)


def test_every_step_is_reported() -> None:
    backbone = tiny_backbone()
    model = attach_adapter(backbone, 2)
    reports: list[None] = []
    samples, position = make_samples(["a", "b", "c", "d"]), StagePosition(shard=SHARD, stage=0)
    train_stage(backbone, model, initial_adapter(model, SHARD), samples, position, SETTINGS, on_step=lambda: reports.append(None))
    assert len(reports) == num_steps(4, SETTINGS, 0) == 4


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 2), (3, 2), (4, 4), (6, 4), (7, 6)])
def test_an_epoch_ends_with_its_ragged_batch(samples: int, steps: int) -> None:
    assert num_steps(samples, SETTINGS, 0) == steps


@given(names=st.sets(st.text(max_size=5), min_size=1, max_size=12), epoch=st.integers(0, 5), removed=st.data())
def test_a_deletion_reorders_nothing_that_stays(names: set[str], epoch: int, removed: st.DataObject) -> None:
    position, everyone = StagePosition(shard=SHARD, stage=1), sorted(names)
    gone = removed.draw(st.sets(st.sampled_from(everyone)))
    rest = [name for name in everyone if name not in gone]
    order = [everyone[row] for row in order_samples(everyone, position, epoch)]
    assert [rest[row] for row in order_samples(rest, position, epoch)] == [name for name in order if name not in gone]


def test_a_deletion_changes_neither_noise_nor_time_of_what_stays() -> None:
    def draws(names: list[str]) -> dict[bytes, tuple[bytes, float]]:
        batches = list(_batches(tiny_backbone(), make_samples(names), StagePosition(shard=SHARD, stage=1), SETTINGS))
        return {
            latent.numpy().tobytes() + bytes([epoch]): (noise.numpy().tobytes(), float(time))
            for epoch in range(SETTINGS.stage_epochs(1))
            for batch in batches[epoch * len(batches) // 2 : (epoch + 1) * len(batches) // 2]
            for latent, noise, time in zip(batch.latents, batch.noise, batch.time, strict=True)
        }

    before, after = draws(["a", "b", "c", "d", "e"]), draws(["a", "c", "e"])
    assert len(before) == len(set(before.values())) == 10
    assert after.items() < before.items()


def test_epochs_stages_and_shards_have_orders_of_their_own() -> None:
    names = [str(number) for number in range(20)]
    orders = {
        tuple(order_samples(names, StagePosition(shard=shard, stage=stage), epoch))
        for shard, stage, epoch in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(orders) == 4


def test_training_lowers_the_loss_on_what_it_saw() -> None:
    backbone, samples = tiny_backbone(), make_samples(["a", "b", "c", "d"])
    model = attach_adapter(backbone, 4)
    longer = TrainingSettings(rank=4, learning_rate=0.02, batch_size=4, epochs=12, caption_dropout=0.0)
    adapter = train_stage(backbone, model, initial_adapter(model, SHARD), samples, StagePosition(shard=SHARD, stage=0), longer)
    bare, taught = (
        compute_denoising_loss(backbone, expert, samples, seed=5) for expert in (backbone.network, merge_adapter(backbone, adapter))
    )
    assert taught < 0.95 * bare


def test_the_loss_is_fixed_by_seed_and_samples() -> None:
    backbone, samples = tiny_backbone(), make_samples(["a", "b", "c"])
    loss = compute_denoising_loss(backbone, backbone.network, samples, seed=5)
    assert compute_denoising_loss(backbone, backbone.network, samples, seed=5) == loss
    assert compute_denoising_loss(backbone, backbone.network, samples, seed=6) != loss
    assert compute_denoising_loss(backbone, backbone.network, reorder(samples, [2, 0, 1]), seed=5, batch_size=2) == pytest.approx(loss)
    assert compute_denoising_loss(backbone, backbone.network, make_samples([]), seed=5) == 0


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="sample_ids, captions and pictures differ in length"):
        StageSamples(sample_ids=["a"], captions=[], pictures=torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_more_than_one_thread_is_refused() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match=r"torch runs 2 threads; call torch\.set_num_threads\(1\) first"):
        train_once(make_samples(["a"]))


def test_an_adapter_of_another_rank_is_refused() -> None:
    backbone = tiny_backbone()
    other = initial_adapter(attach_adapter(backbone, 4), SHARD)
    with pytest.raises(VerificationError, match="adapter: its tensors don't fit this backbone and rank"):
        train_stage(backbone, attach_adapter(backbone, 2), other, make_samples(["a"]), StagePosition(shard=SHARD, stage=0), SETTINGS)
