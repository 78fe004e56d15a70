"""Whether training diverged, asked before an adapter is stored: one that holds NaN or ∞ would be found again under its key for good.

It stands apart from `cdm_core.training`, whose bytes are part of every checkpoint's key (`cdm_core.fingerprint`): it changes no adapter.
"""

from cdm_core.adapters import AdapterTensors
from cdm_core.errors import InvalidInputError
from cdm_core.training import StagePosition


def require_finite(adapter: AdapterTensors, position: StagePosition) -> AdapterTensors:
    """The adapter of a trained stage, all of whose numbers are finite.

    Raises:
        InvalidInputError: one is not.
    """
    if all(bool(tensor.isfinite().all()) for tensor in adapter.values()):
        return adapter
    where = f"shard {position.shard}, stage {position.stage}"
    raise InvalidInputError(f"{where}: training diverged: its adapter isn't finite any more; lower training.learning_rate")
