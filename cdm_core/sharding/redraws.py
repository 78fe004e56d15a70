"""What a trace of withdrawals costs under other secrets than a workspace's own.

The secret has put a few large owners into some shard and stage, and where they are decides much. A redraw gives every owner another key, so
another place, and draws a trace of its own; all owners count as if none had declared a tier.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pandas as pd

from cdm_core.settings import Settings
from cdm_core.sharding.partition import assign, compute_owner_key
from cdm_core.sharding.retraining_sides import SideRules, count_groups, draw_trace, mean_passes, share_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one number over the redraws; None where it has no value under any of them."""

    median: float | None
    least: float | None
    most: float | None


def redraw_owners(rows: pd.DataFrame, settings: Settings, number: int) -> pd.DataFrame:
    """Manifest rows with every owner under another key, and so in another shard and stage; `number` names the draw."""
    secret = f"redraw {number}".encode()
    keys = {owner: compute_owner_key(secret, owner) for owner in map(str, rows["owner_key"].unique())}
    owner_key = [keys[owner] for owner in map(str, rows["owner_key"])]
    places = {key: assign(key, None, settings.partition) for key in keys.values()}
    shard, stage = ([places[key][column] for key in owner_key] for column in (0, 1))
    return rows.assign(owner_key=owner_key, shard=shard, stage=stage)


def spread_shares(
    rows: pd.DataFrame, settings: Settings, lengths: Sequence[int], *, seed: int, redraws: int, on_redraw: Callable[[], None] = lambda: None
) -> dict[int, Spread]:
    """Lethe's share of the monolith's steps for the first `lengths` requests, one at a time; with no redraw, nothing.

    Args:
        rows: manifest rows with a unique index.
        settings: of the workspace.
        lengths: of the traces' beginnings, each at most the number of owners, the last one the longest.
        seed: of the traces.
        redraws: how many, 0 or more.
        on_redraw: called after each.
    """
    shares: dict[int, list[float | None]] = {length: [] for length in lengths}
    for number in range(redraws):
        redrawn = redraw_owners(rows, settings, number)
        trace, passes = draw_trace(redrawn, settings, lengths[-1], seed), mean_passes(redrawn, settings)
        ours, monolith = (
            list(accumulate(count_groups(SideRules(side=side, settings=settings, passes=passes), redrawn, trace, 1)))
            for side in ("lethe", "monolith")
        )
        for length in lengths:
            shares[length].append(share_of(ours[length - 1], monolith[length - 1]))
        on_redraw()
    return {length: _spread_of(of) for length, of in shares.items() if of}


def _spread_of(shares: Sequence[float | None]) -> Spread:
    known = [share for share in shares if share is not None]
    if not known:
        return Spread(median=None, least=None, most=None)
    return Spread(median=statistics.median(known), least=min(known), most=max(known))
