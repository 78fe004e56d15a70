import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.digests import Digest, sha256_digest
from cdm_core.evidence.replay import Grade, Made, MissingInput, ReplayResult, choose_sample, compare_replay, worst_grade

A, B, HERE, THERE = (sha256_digest(name) for name in (b"a", b"b", b"here", b"there"))
MISSING = MissingInput(path="data_packs/shard-0", reason="gone", erased_by=None)


def compare(
    made: dict[str, Digest], *, missing: tuple[MissingInput, ...] = (), there: Digest = HERE, reasons: dict[str, str] | None = None
) -> ReplayResult:
    found = {name: Made(digest=digest, how="retrained") for name, digest in made.items()}
    return compare_replay({"x": A, "y": B}, found, reasons or {}, missing, (there, HERE))


@pytest.mark.parametrize(
    ("made", "missing", "there", "grade", "counts"),
    [
        ({"x": A, "y": B}, (), HERE, "re-executed and equal", (2, 0, 0)),
        ({"x": A}, (), HERE, "re-executed and equal", (1, 0, 1)),
        ({"x": B, "y": B}, (), HERE, "re-executed and different", (1, 1, 0)),
        ({"x": B}, (MISSING,), HERE, "re-executed and different", (0, 1, 1)),
        ({"x": A}, (MISSING,), HERE, "inconclusive", (1, 0, 1)),
        ({}, (), HERE, "inconclusive", (0, 0, 2)),
        ({}, (), THERE, "not comparable", (0, 0, 2)),
        ({"x": A, "y": B}, (), THERE, "not comparable", (0, 0, 2)),
        ({"x": B, "y": A}, (MISSING,), THERE, "not comparable", (0, 0, 2)),
    ],
)
def test_the_grade_says_no_more_than_was_done(
    made: dict[str, Digest], missing: tuple[MissingInput, ...], there: Digest, grade: Grade, counts: tuple[int, int, int]
) -> None:
    result = compare(made, missing=missing, there=there)
    assert result.grade == grade
    assert (len(result.equal), len(result.differing), len(result.not_comparable)) == counts


def test_both_digests_are_shown() -> None:
    (found,) = compare({"x": B, "y": B}).differing
    assert (found.name, found.how, found.record, found.replay) == ("x", "retrained", A, B)


def test_what_was_not_made_says_why() -> None:
    reasons = [entry.reason for entry in compare({}, reasons={"x": "its inputs are missing"}).not_comparable]
    assert reasons == ["its inputs are missing", "not made by this replay"]


def test_the_worst_grade_stands_for_all() -> None:
    assert worst_grade(["re-executed and equal"] * 2) == "re-executed and equal"
    assert worst_grade(["re-executed and equal", "not comparable"]) == "not comparable"
    assert worst_grade(["not comparable", "inconclusive"]) == "inconclusive"
    assert worst_grade(["inconclusive", "re-executed and different", "re-executed and equal"]) == "re-executed and different"


@given(st.text(min_size=1), st.integers(1, 30), st.integers(1, 40))
def test_a_sample_is_what_the_hmac_ranks_first(key: str, num: int, count: int) -> None:
    records = [sha256_digest(str(number).encode()) for number in range(num)]
    chosen = choose_sample(key, records, count)
    ranks = [hmac.new(key.encode(), record.encode(), "sha256").digest() for record in records]
    assert [ranks[position] for position in chosen] == sorted(ranks)[:count]


def test_another_word_picks_another_record() -> None:
    records = [sha256_digest(str(number).encode()) for number in range(100)]
    assert len({choose_sample(str(word), records, 1)[0] for word in range(100)}) > 40
