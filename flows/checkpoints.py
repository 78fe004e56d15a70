"""`lethe checkpoints`: each shard's chain of stages, what is kept of it, why, and for whom."""

from dataclasses import asdict
from pathlib import Path

from tasks.locks import exclusive_lock
from tasks.workspace import open_workspace

Document = dict[str, object]


def run_checkpoints(directory: Path, *, collect: bool) -> Document:
    """List the store; with `collect`, delete what nothing refers to first, while no flow runs."""
    from tasks.training.checkpoint_references import collect_checkpoints, list_checkpoints

    ws = open_workspace(directory)
    collected: Document = {}
    if collect:
        with exclusive_lock(ws.private / "flow.lock"):
            number, num_bytes = collect_checkpoints(ws)
        collected = {"collected": number, "collected_bytes": num_bytes}
    return {**asdict(list_checkpoints(ws)), **collected}


def print_checkpoints(document: Document) -> None:
    """The listing as a person reads it: a line a stage."""
    from flows.console import tell

    shards, others = document["shards"], document["others"]
    assert isinstance(shards, tuple | list)  # we made it
    assert isinstance(others, tuple | list)
    for shard in shards:
        tell(f"shard {shard['shard']}: {shard['stages_reusable']} of {len(shard['chain'])} stages reusable")
        for stage in shard["chain"]:
            place = f"{stage['bytes'] / 1024:.0f} KiB" if stage["present"] else "absent"
            made = f" (made: {stage['made']})" if stage["made"] else ""
            tell(f"  stage {stage['stage']}  {stage['key'][:12]}  {place:>9}  {stage['reason']}{made}{_needed(stage)}")
    for other in others:
        place = f"{other['bytes'] / 1024:.0f} KiB"
        tell(f"shard {other['shard']} stage {other['stage']}  {other['key'][:12]}  {place:>9}  of another chain{_needed(other)}")
    tell(f"{document['num_checkpoints']} checkpoints, {_mebibytes(document['bytes'])}")
    tell(f"{document['unreferenced']} that nothing needs, {_mebibytes(document['unreferenced_bytes'])}")
    if "collected" in document:
        tell(f"collected {document['collected']}, {_mebibytes(document['collected_bytes'])}")


def _needed(row: dict[str, object]) -> str:
    references = row["references"]
    assert isinstance(references, tuple | list)  # we made it
    return f"; for {', '.join(references)}" if references else "; for nobody"


def _mebibytes(num_bytes: object) -> str:
    return f"{int(str(num_bytes)) / 2**20:.1f} MiB"
