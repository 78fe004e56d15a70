"""What an adapter gains: measured on the shipped weights, and a fixed number of pictures."""

import pandas as pd
import pytest

from cdm_core.adapters import adapter_to_bytes, attach_adapter, initial_adapter
from tasks.files import write_atomically
from tasks.training.adapter_gains import MAX_SAMPLES, measure_gain, spread
from tasks.training.shard_training import shared_backbone
from tasks.workspace import Workspace


@pytest.mark.parametrize(("rows", "taken"), [(1, 1), (64, 64), (65, 33), (1000, 63)])
def test_samples_are_spread_over_the_manifest(rows: int, taken: int) -> None:
    chosen = spread(pd.DataFrame({"row": range(rows)}), MAX_SAMPLES)["row"]
    assert len(chosen) == taken
    assert rows - chosen.max() <= -(-rows // MAX_SAMPLES)


def test_an_untrained_adapter_gains_nothing(small: Workspace) -> None:
    model = attach_adapter(shared_backbone(), 4)
    for shard in (0, 1):
        write_atomically(small.adapter(shard), adapter_to_bytes(initial_adapter(model, shard)))
    gain = measure_gain(small, 0)
    assert gain.loss_adapter == gain.loss_backbone
    assert gain.loss_backbone is not None
    assert gain.loss_backbone > 0
