import pytest
import torch

from cdm_core.divergence import require_finite
from cdm_core.errors import InvalidInputError
from cdm_core.training import StagePosition

POSITION = StagePosition(shard=3, stage=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_told_in_one_line(value: float) -> None:
    adapter = {"a": torch.zeros(2, 2), "b": torch.tensor([1.0, value])}
    message = r"^shard 3, stage 1: training diverged: its adapter isn't finite any more; lower training\.learning_rate$"
    with pytest.raises(InvalidInputError, match=message):
        require_finite(adapter, POSITION)


def test_a_finite_adapter_is_handed_on_as_it_is() -> None:
    adapter = {"a": torch.full((2, 2), torch.finfo(torch.float32).max)}
    assert require_finite(adapter, POSITION) is adapter
