"""What was looked at for traces of the erased pictures, as records, runs and notes show it. It is evidence; nothing is decided by it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from cdm_core.digests import Json
from cdm_core.evaluation.membership import Membership
from cdm_core.evaluation.neighbours import Neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Fields of a record, and metrics of its run, before and after."""

    fields: Mapping[str, Json] = field(default_factory=dict)
    metrics_before: Mapping[str, float] = field(default_factory=dict)
    metrics_after: Mapping[str, float] = field(default_factory=dict)


NO_TRACES = Traces()


def describe_traces(membership: Membership | str, neighbours: Neighbours | str) -> Traces:
    """Of each a result, or the reason why there is none."""
    results = {"membership_inference": membership, "nearest_neighbours": neighbours}
    fields: dict[str, Json] = {name: None if isinstance(result, str) else asdict(result) for name, result in results.items()}
    if reasons := {name: result for name, result in results.items() if isinstance(result, str)}:
        fields["not_stated"] = reasons
    before, after = {}, {}
    if not isinstance(membership, str):
        before["membership_auc"], after["membership_auc"] = membership.before.value, membership.after.value
    if not isinstance(neighbours, str):
        before["nearest_is_erased"], after["nearest_is_erased"] = neighbours.before.rate, neighbours.after.rate
    return Traces(fields=fields, metrics_before=before, metrics_after=after)
