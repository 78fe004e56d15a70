"""The commands of holds."""

from collections.abc import Sequence
from pathlib import Path

from cdm_core.errors import InvalidInputError
from flows.policy import Document, parse_moment
from flows.session import open_for_flow
from tasks.clock import utc_now


def run_hold_add(directory: Path, *, samples: Sequence[str], owners: Sequence[str], ground: str, until: str, note: str | None) -> Document:
    """Hold samples until a time."""
    from tasks.requests.holds import add_hold, describe_hold

    moment = parse_moment(until)
    if moment is None:
        raise InvalidInputError("until: is missing")
    ws = open_for_flow(directory)
    hold = add_hold(ws, sample_ids=samples, owner_ids=owners, ground=ground, until=moment, note=note, now=utc_now())
    return dict(describe_hold(hold))


def run_hold_release(directory: Path, hold_id: str) -> Document:
    """End a hold."""
    from tasks.requests.holds import release_hold

    return {"hold_id": hold_id, "requeued": release_hold(open_for_flow(directory), hold_id, utc_now())}


def run_hold_list(directory: Path) -> Document:
    """List the holds that count; expired ones are ended first."""
    from tasks.requests.holds import active_holds, describe_hold, sweep_holds

    ws = open_for_flow(directory)
    sweep_holds(ws, utc_now())
    holds = active_holds(ws, utc_now())
    rows = [{**describe_hold(hold), "samples": list(hold.sample_ids), "owner_keys": list(hold.owner_keys)} for hold in holds]
    return {"holds": rows}
