"""Ways to cut the same data into parts, for the report: whole, by owner, and by group of pictures.

By owner is what a workspace of that many shards would do (`cdm_core.sharding.partition`), so its parts are near to one another: every owner
draws a bit of everything. By group, parts hold different kinds of pictures, and some are far from all others. Groups are dealt out largest
first, each to the part that has the fewest pictures so far: that looks at all data at once, which is well for a measurement and would be
wrong for what forgets.

Parts without a picture are left out: nothing can be trained on them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cdm_core.digests import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One adapter's data: its number, the rows (positions in the whole table), and what people call it."""

    number: int
    rows: tuple[int, ...]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A way to cut: parts in ascending order of number, which together hold every row once."""

    name: str
    parts: tuple[Part, ...]


def whole(num_rows: int) -> Split:
    """One part: the paragon's."""
    return Split(name="paragon", parts=(Part(number=0, rows=tuple(range(num_rows)), name="everything"),))


def split_by_owner(owner_keys: Sequence[str], num: int) -> Split:
    """As a workspace of `num` shards would."""
    numbers = [derive_seed("shard", owner) % num for owner in owner_keys]
    parts = (_part(number, [place == number for place in numbers], f"shard {number}") for number in range(num))
    return Split(name=f"owner/{num}", parts=tuple(part for part in parts if part.rows))


def split_by_group(groups: Sequence[str], num: int) -> Split:
    """Whole groups, largest first, each to the part with the fewest pictures; of equal parts the first."""
    counts = Counter(groups)
    sizes, members = [0] * num, [list[str]() for _ in range(num)]
    for group in sorted(counts, key=lambda group: (-counts[group], group)):
        place = sizes.index(min(sizes))
        sizes[place] += counts[group]
        members[place].append(group)
    parts = (_part(number, [group in members[number] for group in groups], " + ".join(members[number])) for number in range(num))
    return Split(name=f"group/{num}", parts=tuple(part for part in parts if part.rows))


def group_of(row_caption: str, groups: dict[str, str]) -> str:
    """A caption's group: that of the table, else its first word."""
    return groups.get(row_caption) or row_caption.partition(" ")[0] or "none"


def stage_rows(part: Part, rows: pd.DataFrame, stage: int) -> pd.DataFrame:
    """The part's rows of one training stage."""
    own = rows.iloc[list(part.rows)]
    return own[own["stage"] == stage].reset_index(drop=True)


def _part(number: int, is_in: Sequence[bool], name: str) -> Part:
    return Part(number=number, rows=tuple(row for row, inside in enumerate(is_in) if inside), name=name)
