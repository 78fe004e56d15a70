"""Parameters with which the small workspace really trains, samples and judges within a second."""

import yaml

from tasks.workspace import Workspace

QUICK = {
    "training": {"rank": 2, "batch_size": 2, "epochs": 1},
    "sampling": {"steps": 1},
    "knn": {"centroids": 2},
    "evaluation": {"samples": 16, "blocks": 4},
}


def set_parameters(ws: Workspace, changes: dict[str, dict[str, object]]) -> None:
    """Change sections of `params.yaml`."""
    path = ws.root / "params.yaml"
    document = yaml.safe_load(path.read_bytes())
    for section, values in changes.items():
        document[section] |= values
    path.write_text(yaml.safe_dump(document))


def use_quick_settings(ws: Workspace) -> Workspace:
    """The workspace itself, with the quick parameters; the adapters that its template copied are gone."""
    set_parameters(ws, QUICK)  # type: ignore[arg-type]  # values of several types
    for shard in ws.settings().shard_ids:
        ws.adapter(shard).unlink(missing_ok=True)
    return ws
