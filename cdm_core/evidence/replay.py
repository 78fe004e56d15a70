"""What a replay found: the digests that a record names against those that re-executing it made.

`compared` digests are `equal` or `differing`. A digest made under another fingerprint is neither (`cdm_core.fingerprint`), and one whose
inputs are gone wasn't made at all. The grade never says more than was done:

- "re-executed and different": some digest differs, whatever else is missing;
- "not comparable": the record was made under another fingerprint than this machine's, so nothing was compared;
- "inconclusive": an input of the retraining is missing, or nothing could be compared;
- "re-executed and equal": all of the retraining was done again, and every digest came out.

Also which records an auditor re-runs: those that rank lowest by a hash keyed with a word of the auditor's, which nobody who wrote the
records could know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cdm_core.digests import Digest, keyed_hash
from cdm_core.fingerprint import compare_digests

Grade = Literal["re-executed and equal", "re-executed and different", "not comparable", "inconclusive"]
How = Literal["retrained", "recomputed", "stored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A digest that the replay has: by training, by computing from what was trained or stored, or only from stored bytes."""

    digest: Digest
    how: How


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Something that the record names, the digest there, and the one found here."""

    name: str
    how: How
    record: Digest
    replay: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCompared:
    """Something that the record names and the replay says nothing of, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingInput:
    """An input of the retraining that isn't there; `erased_by` is the later record (or revision) whose deletion took it, if one did."""

    path: str
    reason: str
    erased_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """A replay of one record."""

    equal: tuple[Compared, ...]
    differing: tuple[Compared, ...]
    not_comparable: tuple[NotCompared, ...]
    missing_inputs: tuple[MissingInput, ...]
    is_same_fingerprint: bool

    @property
    def grade(self) -> Grade:
        """See the module's text."""
        if self.differing:
            return "re-executed and different"
        if not self.is_same_fingerprint:
            return "not comparable"
        if self.missing_inputs or not self.equal:
            return "inconclusive"
        return "re-executed and equal"


def compare_replay(
    named: Mapping[str, Digest],
    made: Mapping[str, Made],
    reasons: Mapping[str, str],
    missing_inputs: Sequence[MissingInput],
    fingerprints: tuple[Digest, Digest],
) -> ReplayResult:
    """Compare what a record names with what a replay made.

    Args:
        named: digests by what they are of.
        made: the replay's, by the same names.
        reasons: why a name is not among those made.
        missing_inputs: what the retraining lacked.
        fingerprints: the record's and this machine's.
    """
    equal: list[Compared] = []
    differing: list[Compared] = []
    not_comparable: list[NotCompared] = []
    for name, digest in named.items():
        if name not in made:
            not_comparable.append(NotCompared(name=name, reason=reasons.get(name, "not made by this replay")))
            continue
        compared = Compared(name=name, how=made[name].how, record=digest, replay=made[name].digest)
        match compare_digests(digest, compared.replay, *fingerprints):
            case "equal":
                equal.append(compared)
            case "different":
                differing.append(compared)
            case "not comparable":
                not_comparable.append(NotCompared(name=name, reason="made under another fingerprint"))
    return ReplayResult(
        equal=tuple(equal),
        differing=tuple(differing),
        not_comparable=tuple(not_comparable),
        missing_inputs=tuple(missing_inputs),
        is_same_fingerprint=fingerprints[0] == fingerprints[1],
    )


def worst_grade(grades: Sequence[Grade]) -> Grade:
    """The grade of several replays: a difference outweighs everything, and equality needs all of them."""
    order: tuple[Grade, ...] = ("re-executed and different", "inconclusive", "not comparable", "re-executed and equal")
    return min(grades, key=order.index)


def choose_sample(key: str, records: Sequence[Digest], count: int) -> list[int]:
    """Positions of the `count` records that come first by HMAC-SHA-256 under the auditor's key, in that order."""
    return sorted(range(len(records)), key=lambda position: keyed_hash(key.encode(), records[position]))[:count]
