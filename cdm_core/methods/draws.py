"""Draws of an expert are exponential races: expert i waits −log(u_i)/λ_i with u_i hashed from (seed, shard), and the first wins.

P(i first) is exactly λ_i, and taking a shard away, or changing its count, moves no picture between the other shards: their pictures
stay bit-equal.
"""

import math
from collections.abc import Sequence

from cdm_core.composition.document import Expert
from cdm_core.digests import derive_uniform


def draw_expert(experts: Sequence[Expert], *stream: str | int, rates: Sequence[float] | None = None) -> int:
    """Position of the expert that wins the race of this stream, with probability n_i / Σ n_j, or in proportion to `rates`."""

    def waiting_time(position: int) -> float:
        expert = experts[position]
        rate = expert.samples if rates is None else rates[position]
        return -math.log(derive_uniform("expert", *stream, expert.shard)) / rate if rate else math.inf

    return min(range(len(experts)), key=waiting_time)
