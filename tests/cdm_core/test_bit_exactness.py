"""Bit-exactness as a property: after any deletions, in any number of requests, resuming from the checkpoints that are left gives the bytes
that training from nothing on the remaining samples gives. A few examples run always; CI runs many (`-m slow`).

`test_training.py` has the cases that one would think of; here Hypothesis draws the shard, how many samples each stage holds, whose they
are, batch size and epochs (so that last batches are ragged, and cease to be), and a sequence of requests: owners, samples, both, the
first or the last stage, everything.
"""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_backbone import make_samples, tiny_backbone

from cdm_core.adapters import adapter_from_bytes, adapter_to_bytes, attach_adapter, initial_adapter
from cdm_core.chain import compute_chain, first_changed_stage, num_reusable_stages
from cdm_core.digests import Digest, json_digest
from cdm_core.fingerprint import measure_fingerprint
from cdm_core.settings import TrainingSettings
from cdm_core.training import StagePosition, train_stage

Stages = list[list[str]]
"""Names of the samples of each stage; a name begins with its owner's letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A shard, how it is trained, and what is asked to be forgotten, request by request."""

    shard: int
    stages: Stages
    training: TrainingSettings
    requests: list[set[str]]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), label="sizes")
    stages = [[f"{draw(st.sampled_from('abc'))}{stage}.{number}" for number in range(size)] for stage, size in enumerate(sizes)]
    training = TrainingSettings(
        rank=2,
        learning_rate=0.01,
        batch_size=draw(st.integers(1, 3), label="batch_size"),
        epochs=draw(st.integers(1, 2), label="epochs"),
        caption_dropout=draw(st.sampled_from([0.0, 0.4]), label="caption_dropout"),
    )
    requests = draw(st.lists(deletions(stages), min_size=1, max_size=3), label="requests")
    return Trace(shard=draw(st.integers(0, 7), label="shard"), stages=stages, training=training, requests=requests)


def deletions(stages: Stages) -> st.SearchStrategy[set[str]]:
    """What one request names: at least one sample of the shard, whether or not an earlier request took it."""
    everyone = [name for stage in stages for name in stage]
    owners = sorted({name[0] for name in everyone})
    inhabited = [set(stage) for stage in stages if stage]
    samples = st.sets(st.sampled_from(everyone), min_size=1)
    of_owners = st.sets(st.sampled_from(owners), min_size=1).map(lambda chosen: {name for name in everyone if name[0] in chosen})
    stage = st.sampled_from([inhabited[0], inhabited[-1]])
    return st.one_of(samples, of_owners, st.builds(set.union, samples, of_owners), stage, st.just(set(everyone)))


def train(trace: Trace, stages: Stages, store: dict[Digest, bytes]) -> tuple[list[Digest], int]:
    """Train what the store lacks and put it there; the chain's keys, and how many stages were found."""
    backbone = tiny_backbone()
    digests = [json_digest(sorted(make_samples(names).sample_ids)) for names in stages]
    keys = compute_chain(trace.shard, digests, trace.training, backbone.digest, measure_fingerprint({}))
    reused = num_reusable_stages(keys, store.__contains__)
    model = attach_adapter(backbone, trace.training.rank)
    adapter = adapter_from_bytes(store[keys[reused - 1]]) if reused else initial_adapter(model, trace.shard)
    for stage in range(reused, len(stages)):
        position = StagePosition(shard=trace.shard, stage=stage)
        adapter = train_stage(backbone, model, adapter, make_samples(stages[stage]), position, trace.training)
        store[keys[stage]] = adapter_to_bytes(adapter)
    return keys, reused


def check_that_resumed_equals_scratch(trace: Trace) -> None:
    store: dict[Digest, bytes] = {}
    before, _ = train(trace, trace.stages, store)
    remaining = trace.stages
    for request in trace.requests:
        remaining = [[name for name in stage if name not in request] for stage in remaining]
        keys, reused = train(trace, remaining, store)
        hit = first_changed_stage(before, keys)
        assert reused >= (len(keys) if hit is None else hit)
        scratch: dict[Digest, bytes] = {}
        scratch_keys, scratch_reused = train(trace, remaining, scratch)
        assert (scratch_keys, scratch_reused) == (keys, 0)
        assert [store[key] for key in keys] == [scratch[key] for key in keys]
        # The canary: from the first stage that lost a sample on, bytes differ; bytes that never change would pass everything above.
        if hit is not None:
            assert store[keys[hit]] != store[before[hit]]
        before = keys


@given(trace=traces())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_resumed_equals_scratch(trace: Trace) -> None:
    check_that_resumed_equals_scratch(trace)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a hundred trainings
@given(trace=traces())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_resumed_equals_scratch_in_many_examples(trace: Trace) -> None:
    check_that_resumed_equals_scratch(trace)


@given(trace=traces())
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_requests_one_by_one_and_at_once_end_in_the_same_bytes(trace: Trace) -> None:
    one_by_one: dict[Digest, bytes] = {}
    train(trace, trace.stages, one_by_one)
    at_once, remaining = dict(one_by_one), trace.stages
    for request in trace.requests:
        remaining = [[name for name in stage if name not in request] for stage in remaining]
        keys, _ = train(trace, remaining, one_by_one)
    assert train(trace, remaining, at_once)[0] == keys
    assert [one_by_one[key] for key in keys] == [at_once[key] for key in keys]
