"""Cutting data into parts: every row once, owners together, groups together, and an owner's part a matter of that owner alone."""

from cdm_core.sharding.partition import OwnerKey, Partition, assign
from cdm_core.sharding.splits import group_of, split_by_group, split_by_owner, whole

OWNERS = [f"{number:016x}" for number in range(40) for _ in range(3)]
GROUPS = ["people"] * 50 + ["flags"] * 9 + ["food"] * 8 + ["objects"] * 3 + ["symbols"] * 2


def test_every_row_is_in_one_part() -> None:
    for split in (whole(len(OWNERS)), split_by_owner(OWNERS, 4), split_by_group(OWNERS, 8)):
        assert sorted(row for part in split.parts for row in part.rows) == list(range(len(OWNERS)))


def test_an_owner_is_where_a_workspace_of_so_many_shards_puts_it() -> None:
    for num in (2, 8):
        for part in split_by_owner(OWNERS, num).parts:
            for row in part.rows:
                shard, _ = assign(OwnerKey(OWNERS[row]), None, Partition(shards=num, stages=1))
                assert shard == part.number


def test_a_coarser_split_is_a_union_of_finer_parts() -> None:
    fine, coarse = split_by_owner(OWNERS, 8), split_by_owner(OWNERS, 2)
    for part in fine.parts:
        (home,) = [other for other in coarse.parts if set(part.rows) <= set(other.rows)]
        assert home.number == part.number % 2


def test_without_an_owner_the_others_stay() -> None:
    kept = [owner for owner in OWNERS if owner != OWNERS[0]]
    before = {OWNERS[row]: part.number for part in split_by_owner(OWNERS, 4).parts for row in part.rows}
    after = {kept[row]: part.number for part in split_by_owner(kept, 4).parts for row in part.rows}
    assert after == {owner: number for owner, number in before.items() if owner != OWNERS[0]}


def test_groups_are_dealt_largest_first_to_the_smallest_part() -> None:
    split = split_by_group(GROUPS, 3)
    assert [part.name for part in split.parts] == ["people", "flags + symbols", "food + objects"]
    assert [len(part.rows) for part in split.parts] == [50, 11, 11]


def test_parts_without_a_row_are_left_out() -> None:
    assert [part.name for part in split_by_group(["a", "b"], 8).parts] == ["a", "b"]
    assert len(split_by_owner(OWNERS[:1], 8).parts) == 1


def test_a_caption_of_no_known_group_goes_by_its_first_word() -> None:
    assert group_of("red heart", {"red heart": "symbols"}) == "symbols"
    assert group_of("crimson thing", {}) == "crimson"
    assert group_of("", {}) == "none"
